use super::*;
use kaltstart_protocol::finding::Code;
use kaltstart_protocol::phase::{Phase, Unit};
use proptest::prelude::*;
use std::path::Path;

const VGA: Size = Size { columns: 80, rows: 25 };

/// A machine that the server knows, in the middle of its image.
fn state() -> State {
    let progress = Progress { done: 72, total: 100, unit: Unit::Bytes };
    State {
        doing: Doing::Job { phase: Phase::Image, since: 60_000, progress: Some(progress) },
        name: "web-12".into(),
        page: "https://10.77.0.1:8443/v1/nodes/web-12".into(),
        serial: "CN7792".into(),
        interface: "eno1".into(),
        address: "10.77.0.117".into(),
        plugged: [("eno1".to_owned(), "switch sw-a12-1 port 17".to_owned())].into(),
        server: "https://10.77.0.1:8443".into(),
        heard: Some(95_000),
        usual: Phase::ALL.into_iter().map(|phase| (phase, 10_000)).collect(),
        ..State::new()
    }
}

fn failed(code: Code, detail: &str) -> State {
    State { finding: Some(Finding::new(code, detail)), ..state() }
}

/// Compares with the file of that name; `KALTSTART_GOLDEN=1` writes it anew.
fn golden(name: &str, drawing: &Drawing) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/screen/golden").join(name);
    let text = drawing.rows.join("\n") + "\n";
    if std::env::var_os("KALTSTART_GOLDEN").is_some() {
        std::fs::write(&file, &text).expect("the directory is there");
    }
    let wanted = std::fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(text, wanted, "{name} is shown otherwise; KALTSTART_GOLDEN=1 writes it anew");
}

#[test]
fn the_screen_is_what_the_golden_files_show() {
    let now = 96_200;
    let two = "vda serial 1, 2 GiB virtio; nvme0n1 serial 2, 2 GiB nvme";
    let early = State { name: String::new(), page: String::new(), doing: Doing::Network, ..state() };
    let looking = State { doing: Doing::Waiting, looks: true, ..state() };
    let erased = State { doing: Doing::Erased, ..state() };
    let rescue = State { doing: Doing::Rescue, ..state() };
    let stuck = State { doing: Doing::Stuck("there is no TLS".into()), ..early.clone() };
    let lost = State {
        trouble: Some(Finding::new(Code::ServerUnreachable, "report at https://10.77.0.1:8443: timeout")),
        ..state()
    };
    for (name, state, size) in [
        ("image", &state(), VGA),
        ("ambiguous", &failed(Code::AmbiguousDisk, two), VGA),
        ("foreign", &failed(Code::ForeignData, two), VGA),
        ("network", &early, VGA),
        ("looking", &looking, VGA),
        ("erased", &erased, VGA),
        ("rescue", &rescue, VGA),
        ("stuck", &stuck, VGA),
        ("unreachable", &lost, VGA),
        ("small", &state(), Size { columns: 60, rows: 18 }),
        ("large", &state(), Size { columns: 240, rows: 67 }),
    ] {
        for (language, suffix) in [(Language::English, "en"), (Language::German, "de")] {
            golden(&format!("{name}.{suffix}.txt"), &render(state, now, size, language));
        }
    }
}

#[test]
fn only_what_needs_hands_is_an_alarm() {
    let alarm = |state: &State| render(state, 0, VGA, Language::English).is_alarm;
    assert!(!alarm(&state()) && alarm(&failed(Code::DiskFailed, "x")));
    assert!(alarm(&State { doing: Doing::Stuck(String::new()), ..state() }));
    assert!(!alarm(&State { doing: Doing::Erased, ..state() }));
}

#[test]
fn every_instruction_is_shown_whole_on_a_vga_console() {
    let squeezed = |text: &str| text.split_whitespace().collect::<String>();
    for code in Code::ALL {
        // Nobody at a machine is told what only its server knows.
        if code.number() < "KS-1003" || (code.number() > "KS-1005" && code.number() < "KS-1040") {
            continue;
        }
        for language in [Language::English, Language::German] {
            let drawing = render(&failed(*code, "seen"), 100_000, VGA, language);
            let left: String = drawing
                .rows
                .iter()
                .map(|row| row.chars().take(VGA.columns - 37).collect::<String>())
                .collect();
            let wanted: String = code.next_in(language).chars().map(shown).collect();
            let all = drawing.rows.join("\n");
            assert!(squeezed(&left).contains(&squeezed(&wanted)), "{code} {language:?}\n{all}");
        }
    }
}

#[test]
fn what_is_left_is_told_in_seconds_then_minutes() {
    let left = |ms| {
        let usual = Phase::ALL.into_iter().map(|phase| (phase, ms)).collect();
        let state = State { usual, ..state() };
        let shown = render(&state, 96_000, VGA, Language::English).rows.join("\n");
        shown.split("about ").nth(1).and_then(|rest| rest.split(" left").next()).map(str::to_owned)
    };
    // 36 s for 72 of 100, so 14 s here, and four phases ahead.
    assert_eq!(left(10_000).as_deref(), Some("54 s"));
    assert_eq!(left(60_000).as_deref(), Some("5 min"));
    let unknown = State { usual: Default::default(), ..state() };
    let shown = render(&unknown, 96_000, VGA, Language::English).rows.join("\n");
    assert!(!shown.contains("left"), "{shown}");
}

proptest! {
    #[test]
    fn p28_nothing_that_is_shown_leaves_its_place_or_controls_a_terminal(
        texts in proptest::collection::vec("\\PC{0,30}|[\u{0}-\u{ff}]{0,200}|[a-z0-9-]{1,63}", 7),
        columns in 0_usize..300, rows in 0_usize..90, is_failed: bool, total: u64, done: u64, now: u64,
    ) {
        let progress = Progress { done, total, unit: Unit::Bytes };
        let state = State {
            doing: Doing::Job { phase: Phase::Image, since: done, progress: Some(progress) },
            name: texts[0].clone(),
            page: texts[1].clone(),
            serial: texts[2].clone(),
            address: texts[3].clone(),
            plugged: [("eno1".to_owned(), texts[4].clone())].into(),
            server: texts[5].clone(),
            finding: is_failed.then(|| Finding::new(Code::DiskFailed, texts[6].clone())),
            ..state()
        };
        for language in [Language::English, Language::German] {
            let drawing = render(&state, now, Size { columns, rows }, language);
            prop_assert_eq!(drawing.rows.len(), rows);
            for row in &drawing.rows {
                prop_assert!(row.chars().count() <= columns, "{:?}", row);
                prop_assert!(row.chars().all(|char| !char.is_control() && shown(char) == char), "{:?}", row);
            }
        }
    }
}
