//! A table for people and their spreadsheets (RFC 4180).

use super::{class, labels};
use crate::client::output::printable;
use crate::http::api::rfc3339;
use crate::summary::NodeSummary;
use kaltstart_core::about::Word;
use kaltstart_core::class::Class;
use std::sync::Arc;

const HEADER: [&str; 18] = [
    "name",
    "id",
    "state",
    "headline",
    "team",
    "role",
    "site",
    "rack",
    "position",
    "class",
    "labels",
    "macs",
    "address",
    "vendor",
    "product",
    "serial",
    "last_seen",
    "locked",
];

/// A line for each node, below one that names the columns.
pub(crate) fn table<'a>(nodes: impl Iterator<Item = &'a Arc<NodeSummary>>, classes: &[Class]) -> String {
    let rows = nodes.map(|node| cells(node, classes));
    std::iter::once(HEADER.map(str::to_owned)).chain(rows).map(|cells| line(&cells)).collect()
}

fn cells(node: &NodeSummary, classes: &[Class]) -> [String; 18] {
    let about = &node.about;
    let word = |word: &Option<Word>| word.as_ref().map(Word::to_string).unwrap_or_default();
    let macs: Vec<String> = node.macs.iter().map(ToString::to_string).collect();
    let [vendor, product, serial] = node
        .hardware
        .clone()
        .map_or_else(Default::default, |hardware| [hardware.vendor, hardware.product, hardware.serial]);
    [
        node.name.clone(),
        node.id.to_string(),
        node.state.to_string(),
        node.headline.clone(),
        word(&about.team),
        word(&about.role),
        word(&about.site),
        word(&about.rack),
        about.position.map(|position| position.to_string()).unwrap_or_default(),
        word(&class(node, classes)),
        labels(node).collect::<Vec<_>>().join(" "),
        macs.join(" "),
        node.reached_at().map(|address| address.to_string()).unwrap_or_default(),
        vendor,
        product,
        serial,
        node.last_seen.map(rfc3339).unwrap_or_default(),
        node.lock.as_ref().map(|lock| format!("{}: {}", lock.by, lock.reason)).unwrap_or_default(),
    ]
}

fn line(cells: &[String]) -> String {
    let cells: Vec<String> = cells.iter().map(|cell| quoted(&harmless(cell))).collect();
    cells.join(",") + "\r\n"
}

/// Text that no spreadsheet takes for a formula: where one could begin, also if the file is read with another
/// separator, an apostrophe comes first. Characters that steer terminals are replaced.
fn harmless(cell: &str) -> String {
    let mut harmless = String::new();
    let mut begins = true;
    for c in cell.chars() {
        if begins && "=+-@\t\r\n\u{ff1d}\u{ff0b}\u{ff0d}\u{ff20}".contains(c) {
            harmless.push('\'');
        }
        begins = matches!(c, ',' | ';' | '|' | '"' | '\t' | '\r' | '\n') || (begins && c.is_whitespace());
        harmless.push(c);
    }
    printable(&harmless)
}

/// In quotation marks where that makes a difference to any reader.
fn quoted(cell: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:/".contains(c);
    if cell.chars().all(plain) { cell.to_owned() } else { format!("\"{}\"", cell.replace('"', "\"\"")) }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{hostile, node};
    use super::*;

    /// The rows of a table, as RFC 4180 has them.
    fn read(text: &str, separator: char) -> Vec<Vec<String>> {
        let (mut rows, mut row, mut cell, mut quoted) = (Vec::new(), Vec::new(), String::new(), false);
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '"' if quoted && chars.peek() == Some(&'"') => cell.extend(chars.next()),
                '"' => quoted = !quoted,
                c if c == separator && !quoted => row.push(std::mem::take(&mut cell)),
                '\r' if !quoted => assert_eq!(chars.peek(), Some(&'\n'), "lines end in CRLF"),
                '\n' if !quoted => {
                    row.push(std::mem::take(&mut cell));
                    rows.push(std::mem::take(&mut row));
                }
                c => cell.push(c),
            }
        }
        assert!(row.is_empty() && cell.is_empty() && !quoted, "the last line ends too");
        rows
    }

    #[test]
    fn a_table_has_a_head_and_a_line_for_each_node() {
        let web = Arc::new(node("web-1", "fra1", ("env", "prod")));
        let rows = read(&table([&web].into_iter(), &[]), ',');
        assert_eq!(rows[0], HEADER);
        let expected = [
            "web-1",
            web.id.as_str(),
            "deployed",
            "deployed",
            "payments",
            "web-server",
            "fra1",
            "A12",
            "14",
            "",
            "env=prod",
            "02:00:00:00:00:07",
            "10.0.0.9",
            "",
            "",
            "",
            "1970-01-01T00:00:00.000Z",
            "",
        ];
        assert_eq!(rows[1..], [expected.map(str::to_owned).to_vec()]);
        assert_eq!(read(&table([].into_iter(), &[]), ',').len(), 1, "the head alone");
    }

    #[test]
    fn p28_no_cell_becomes_a_formula_or_another_cell() {
        for text in [
            "=cmd|'/C calc'!A0",
            "+1",
            "-1+1",
            "@SUM(A1)",
            "\t=1",
            "\r=1",
            "\n=1",
            " =1",
            "a\"=1",
            "a;=1",
            "a,=1",
            "a; =1",
            "a\";=1;\"",
            "\u{ff1d}1",
            "\",=1,\"",
            "a\n=1",
            "a\r\n=1,=2",
            "\u{1b}]0;x\u{7}",
            "|=1",
        ] {
            let node = Arc::new(hostile(text));
            let table = table([&node].into_iter(), &[]);
            let rows = read(&table, ',');
            assert_eq!((rows.len(), rows[1].len()), (2, HEADER.len()), "{text:?}: {table}");
            for separator in [',', ';', '\t', '|'] {
                let cells = table.split("\r\n").flat_map(|line| line.split(separator));
                for cell in cells {
                    let cell = cell.trim_start_matches(|c: char| c == '"' || c.is_whitespace());
                    assert!(
                        !cell.starts_with(['=', '+', '-', '@', '\u{ff1d}']),
                        "{text:?}: {cell:?} in {table}"
                    );
                }
            }
            assert!(!table.replace("\r\n", "").contains(char::is_control), "{text:?}: {table:?}");
            let meant = &rows[1][14];
            let without = |text: &str| text.replace('\'', "");
            assert_eq!(without(meant), without(&printable(text)), "nothing else is changed");
        }
    }
}
