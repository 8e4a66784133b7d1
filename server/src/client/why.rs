//! `ks why`: the likeliest cause, its proof, and what to do next.

use super::output::printable;
use crate::http::diagnosis::{CauseView, DiagnosisView};
use kaltstart_core::why::Proof;
use kaltstart_protocol::time::Millis;
use std::fmt::Write as _;

/// The diagnosis as text for a terminal.
pub(super) fn text(diagnosis: &DiagnosisView) -> String {
    let DiagnosisView { node, headline, causes, last, ruled_out, now } = diagnosis;
    let headline = headline.as_deref().unwrap_or("not declared");
    let mut text = format!("{node}   {headline} · heard {}\n", heard(last, *now));
    for (index, cause) in causes.iter().enumerate() {
        cause_text(&mut text, if index == 0 { "Most likely" } else { "Or" }, cause);
    }
    if causes.is_empty() {
        text.push_str("Nothing shows a fault.\n");
    }
    let _ = writeln!(text, "{:<12} {}", "Last seen", proof(last));
    if !ruled_out.is_empty() {
        let _ = writeln!(text, "{:<12} {}", "Has worked", printable(&ruled_out.join(" · ")));
    }
    if let Some(first) = causes.first() {
        let mut title = "Do next";
        for line in [&first.next].into_iter().chain(&first.commands) {
            let _ = writeln!(text, "{title:<12} {}", printable(line));
            title = "";
        }
    }
    text.trim_end().to_owned()
}

fn cause_text(text: &mut String, title: &str, cause: &CauseView) {
    let _ =
        writeln!(text, "{title:<12} {}  {:<50} likely: {}", cause.code, cause.title, cause.likelihood.name());
    let mut title = "  proof";
    for seen in &cause.proof {
        let _ = writeln!(text, "{title:<12} {}", proof(seen));
        title = "";
    }
}

fn proof(proof: &Proof) -> String {
    format!("{}  {}", clock(proof.at), printable(&proof.text))
}

fn heard(last: &Proof, now: Millis) -> String {
    match now.since(last.at) / 1_000 {
        0 => "just now".into(),
        seconds @ 1..120 => format!("{seconds} s ago"),
        seconds => format!("{} min ago", seconds / 60),
    }
}

/// The time of day, UTC.
fn clock(time: Millis) -> String {
    crate::http::api::rfc3339(time).get(11..19).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kaltstart_core::why::Likelihood;
    use kaltstart_protocol::finding::Code;

    #[test]
    fn a_diagnosis_reads_as_its_golden_file_says() {
        let at = |seconds: u64| Millis(1_700_000_000_000 + seconds * 1_000);
        let seen = |seconds, text: &str| Proof { at: at(seconds), text: text.into() };
        let cause = |code: Code, likelihood, proof| CauseView {
            code,
            title: code.title().into(),
            likelihood,
            proof,
            next: code.next().into(),
            commands: kaltstart_core::why::commands(code, "db-07", None),
        };
        let refused = vec![
            seen(0, "\"snponly.efi\" was fetched whole"),
            seen(4, "the firmware began again instead of the loader's next question"),
        ];
        let mut diagnosis = DiagnosisView {
            node: "db-07".into(),
            headline: Some("deploying · loader".into()),
            causes: vec![
                cause(Code::SecureBootRefused, Likelihood::High, refused.clone()),
                cause(Code::LoaderSilent, Likelihood::Low, refused),
            ],
            last: seen(4, "discover (pxe/uefi-x64) was answered\u{1b}[2J"),
            ruled_out: vec!["DHCP (it has 10.77.0.50)".into(), "TFTP (snponly.efi fetched whole)".into()],
            now: at(7),
        };
        let mut all = text(&diagnosis);
        diagnosis.causes.clear();
        all = format!("{all}\n\n{}\n", text(&diagnosis));
        assert_eq!(all, include_str!("../../golden/why.txt"), "\n{all}");
    }
}
