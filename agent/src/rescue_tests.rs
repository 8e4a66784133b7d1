use super::*;
use kaltstart_protocol::ids::JobId;
use kaltstart_protocol::secret::Secret;
use kaltstart_protocol::time::Millis;
use std::collections::VecDeque;

use crate::test_server::{Server, json};

const JOB: u128 = 7;

fn task() -> RescueTask {
    RescueTask { job: JobId::new(Millis(1), JOB), attempt: 2, writable: Vec::new() }
}

/// What the server was shown, and knows of the input.
#[derive(Default)]
struct Seen {
    shown: Vec<u8>,
    questions: Vec<InputQuestion>,
    ended: bool,
}

fn body<T: serde::de::DeserializeOwned>(request: &str) -> T {
    let body = request.split_once("\r\n\r\n").expect("a body").1;
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"))
}

fn typed(first: u64, text: &str, size: Size) -> Input {
    Input { open: true, first, bytes: Octets(text.into()), size, over: None }
}

/// A server that gives `inputs` one after the other, each when what is shown holds its word, and ends the rescue
/// when the agent says that the shell was left.
fn server(inputs: Vec<(&'static str, Input)>) -> (Server, Arc<Mutex<Seen>>) {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let (known, inputs) = (seen.clone(), Mutex::new(VecDeque::from(inputs)));
    let server = Server::with(move |_, request| {
        let mut seen = known.lock().expect("not poisoned");
        if request.starts_with("POST /agent/v1/shell/output ") {
            let output: Output = body(request);
            assert_eq!((output.job, output.attempt), (task().job, 2));
            assert_eq!(output.first, seen.shown.len() as u64);
            seen.shown.extend(output.bytes.0);
            return "HTTP/1.1 204 No Content\r\n\r\n".into();
        }
        if request.starts_with("POST /agent/v1/rescued ") {
            seen.ended = true;
            return json("200 OK", r#"{"directive":"continue"}"#);
        }
        assert!(request.starts_with("POST /agent/v1/shell/input "), "{request}");
        seen.questions.push(body(request));
        let mut inputs = inputs.lock().expect("not poisoned");
        let shown = String::from_utf8_lossy(&seen.shown).into_owned();
        let ready = inputs.front().is_some_and(|(word, _)| shown.contains(word));
        let input = match inputs.pop_front_if(|_| ready) {
            Some((_, input)) => input,
            None if seen.ended => Input { over: Some("the shell was left".into()), ..Input::default() },
            None => Input::default(),
        };
        json("200 OK", &serde_json::to_string(&input).expect("JSON"))
    });
    (server, seen)
}

fn link(server: &Server) -> Arc<Link> {
    Arc::new(
        Link::new(&[server.url("")], server.client(), Secret::new("kss_session".into())).with_pause(|_| {}),
    )
}

fn run(server: &Server) -> End {
    let shell = || {
        let mut shell = Command::new("/bin/sh");
        shell.env_clear().envs([("PS1", "ready> "), ("PATH", "/bin:/usr/bin")]);
        shell
    };
    serve(&link(server), &task(), &shell, "No disk.", |_| std::thread::sleep(Duration::from_millis(20)))
}

#[test]
fn p20_a_shell_runs_on_a_terminal_from_the_servers_word_to_its_exit() {
    let (small, large) = (Size { columns: 70, rows: 20 }, Size { columns: 132, rows: 43 });
    let again = "tty; stty size\r";
    let (server, seen) = server(vec![
        ("", Input::default()),
        ("", typed(0, again, small)),
        // An answer that was lost: the first two bytes are there already.
        ("20 70", typed(again.len() as u64 - 2, "e\rstty size; cat /proc/self/stat\r", large)),
        ("43 132", typed(again.len() as u64 + 31, "sleep 600 & exit\r", large)),
    ]);
    let began = Instant::now();
    assert_eq!(run(&server), End::Restart("the shell was left".into()));
    assert!(began.elapsed() < Duration::from_secs(60), "what runs on in the background is not waited for");
    let seen = seen.lock().expect("not poisoned");
    let shown = String::from_utf8_lossy(&seen.shown).into_owned();
    assert!(shown.contains("No disk. Mount one so"), "{shown}");
    assert!(shown.contains("/dev/pts/"), "{shown}");
    assert!(seen.ended);
    assert_eq!(seen.questions[0].shell, None, "nothing runs before the server's word");
    assert_eq!(seen.questions[1].shell, None);
    assert!(seen.questions.iter().any(|question| question.shell == Some(large)));
}

#[test]
fn p20_without_the_servers_word_nothing_runs_and_its_end_is_the_end() {
    let over = Input { over: Some("cancelled".into()), ..Input::default() };
    let (server, seen) = server(vec![("", typed_but_closed()), ("", over)]);
    assert_eq!(run(&server), End::Restart("cancelled".into()));
    let seen = seen.lock().expect("not poisoned");
    assert_eq!((seen.shown.len(), seen.ended), (0, false));
}

/// What no server says: input for a shell that may not run.
fn typed_but_closed() -> Input {
    Input { open: false, ..typed(0, "echo no\r", Size::default()) }
}

#[test]
fn p20_what_the_server_does_not_record_is_not_shown_and_ends_the_shell() {
    let ended = Arc::new(Mutex::new(false));
    let known = ended.clone();
    let server = Server::with(move |_, request| {
        let mut ended = known.lock().expect("not poisoned");
        if request.starts_with("POST /agent/v1/shell/output ") {
            return json("409 Conflict", r#"{"title":"Conflict","detail":"the recording is full"}"#);
        }
        if request.starts_with("POST /agent/v1/rescued ") {
            *ended = true;
            return json("200 OK", r#"{"directive":"continue"}"#);
        }
        let over = ended.then(|| "the shell was left".to_owned());
        let input = Input { over, ..typed(0, "", Size::default()) };
        json("200 OK", &serde_json::to_string(&input).expect("JSON"))
    });
    assert_eq!(run(&server), End::Restart("the shell was left".into()));
    assert!(*ended.lock().expect("not poisoned"));
}
