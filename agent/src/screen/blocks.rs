//! Pictures out of half blocks: two points above each other in each character, light on dark. The blocks are
//! in the fonts of VGA's hardware and of the kernel, as in code page 437.

use qrcodegen::{QrCode, QrCodeEcc};

/// Width and height of a letter's points, without the space beside it.
const LETTER: (usize, usize) = (5, 7);
/// Light points around a QR code, as ISO/IEC 18004 wants them, and as readers need at least.
const QUIET_ZONES: [usize; 2] = [4, 2];

/// Columns that a letter takes, with the space to the next.
pub(super) const LETTER_COLUMNS: usize = LETTER.0 + 1;
/// Rows that a letter takes.
pub(super) const LETTER_ROWS: usize = LETTER.1.div_ceil(2);

/// Rows of characters for the points of a picture, each point `scale` times as wide and as high.
fn picture(
    width: usize,
    height: usize,
    scale: usize,
    is_light: impl Fn(usize, usize) -> bool,
) -> Vec<String> {
    let point = |x: usize, y: usize| y / scale < height && is_light(x / scale, y / scale);
    let block = |x: usize, y: usize| match (point(x, y), point(x, y + 1)) {
        (false, false) => ' ',
        (true, false) => '▀',
        (false, true) => '▄',
        (true, true) => '█',
    };
    let row = |y: usize| (0..width * scale).map(|x| block(x, y)).collect();
    (0..height * scale).step_by(2).map(row).collect()
}

/// `text` in large letters; none when there is no letter for one of its characters.
pub(super) fn letters(text: &str, scale: usize) -> Option<Vec<String>> {
    let glyphs: Vec<[u8; 5]> = text.chars().map(glyph).collect::<Option<_>>()?;
    let is_light = |x: usize, y: usize| {
        let columns = glyphs.get(x / LETTER_COLUMNS);
        let column = columns.and_then(|columns| columns.get(x % LETTER_COLUMNS));
        column.is_some_and(|column| column >> y & 1 == 1)
    };
    Some(picture(glyphs.len() * LETTER_COLUMNS, LETTER.1, scale, is_light))
}

/// The QR code of `text`, in at most so many columns and rows; none where it does not fit.
pub(super) fn qr(text: &str, columns: usize, rows: usize) -> Option<Vec<String>> {
    let code = QrCode::encode_text(text, QrCodeEcc::Low).ok()?;
    let size = usize::try_from(code.size()).ok()?;
    let fits = |zone: usize, scale: usize| {
        let side = (size + 2 * zone) * scale;
        side <= columns && side.div_ceil(2) <= rows
    };
    let zone = QUIET_ZONES.into_iter().find(|zone| fits(*zone, 1))?;
    let scale = (1..).take_while(|scale| fits(zone, *scale)).last()?;
    let module = |at: usize| at.checked_sub(zone).and_then(|at| i32::try_from(at).ok()).unwrap_or(-1);
    // Outside of the code all modules are light.
    let is_light = |x: usize, y: usize| !code.get_module(module(x), module(y));
    Some(picture(size + 2 * zone, size + 2 * zone, scale, is_light))
}

/// A letter's columns, from the left; the lowest bit is on top.
fn glyph(letter: char) -> Option<[u8; 5]> {
    Some(match letter.to_ascii_uppercase() {
        ' ' => [0; 5],
        '-' => [0x08; 5],
        '.' => [0x00, 0x60, 0x60, 0x00, 0x00],
        '%' => [0x23, 0x13, 0x08, 0x64, 0x62],
        '0' => [0x3e, 0x51, 0x49, 0x45, 0x3e],
        '1' => [0x00, 0x42, 0x7f, 0x40, 0x00],
        '2' => [0x42, 0x61, 0x51, 0x49, 0x46],
        '3' => [0x21, 0x41, 0x45, 0x4b, 0x31],
        '4' => [0x18, 0x14, 0x12, 0x7f, 0x10],
        '5' => [0x27, 0x45, 0x45, 0x45, 0x39],
        '6' => [0x3c, 0x4a, 0x49, 0x49, 0x30],
        '7' => [0x01, 0x71, 0x09, 0x05, 0x03],
        '8' => [0x36, 0x49, 0x49, 0x49, 0x36],
        '9' => [0x06, 0x49, 0x49, 0x29, 0x1e],
        'A' => [0x7e, 0x11, 0x11, 0x11, 0x7e],
        'B' => [0x7f, 0x49, 0x49, 0x49, 0x36],
        'C' => [0x3e, 0x41, 0x41, 0x41, 0x22],
        'D' => [0x7f, 0x41, 0x41, 0x22, 0x1c],
        'E' => [0x7f, 0x49, 0x49, 0x49, 0x41],
        'F' => [0x7f, 0x09, 0x09, 0x09, 0x01],
        'G' => [0x3e, 0x41, 0x49, 0x49, 0x7a],
        'H' => [0x7f, 0x08, 0x08, 0x08, 0x7f],
        'I' => [0x00, 0x41, 0x7f, 0x41, 0x00],
        'J' => [0x20, 0x40, 0x41, 0x3f, 0x01],
        'K' => [0x7f, 0x08, 0x14, 0x22, 0x41],
        'L' => [0x7f, 0x40, 0x40, 0x40, 0x40],
        'M' => [0x7f, 0x02, 0x0c, 0x02, 0x7f],
        'N' => [0x7f, 0x04, 0x08, 0x10, 0x7f],
        'O' => [0x3e, 0x41, 0x41, 0x41, 0x3e],
        'P' => [0x7f, 0x09, 0x09, 0x09, 0x06],
        'Q' => [0x3e, 0x41, 0x51, 0x21, 0x5e],
        'R' => [0x7f, 0x09, 0x19, 0x29, 0x46],
        'S' => [0x46, 0x49, 0x49, 0x49, 0x31],
        'T' => [0x01, 0x01, 0x7f, 0x01, 0x01],
        'U' => [0x3f, 0x40, 0x40, 0x40, 0x3f],
        'V' => [0x1f, 0x20, 0x40, 0x20, 0x1f],
        'W' => [0x3f, 0x40, 0x38, 0x40, 0x3f],
        'X' => [0x63, 0x14, 0x08, 0x14, 0x63],
        'Y' => [0x07, 0x08, 0x70, 0x08, 0x07],
        'Z' => [0x61, 0x51, 0x49, 0x45, 0x43],
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_light_and_stand_apart() {
        let text = letters("1-h", 1).expect("letters");
        let expected = [" ▄█         █   █", "  █   ▄▄▄▄▄ █▄▄▄█", "  █         █   █", " ▀▀▀        ▀   ▀"];
        let shown: Vec<&str> = text.iter().map(|row| row.trim_end()).collect();
        assert_eq!(shown, expected, "{}", text.join("\n"));
        assert!(letters("ä", 1).is_none());
        let twice = letters("1", 2).expect("a letter");
        assert_eq!((twice.len(), twice[0].chars().count()), (7, 12));
    }

    #[test]
    fn a_code_is_as_large_as_there_is_room_and_none_is_cut() {
        let url = "https://10.77.0.1:8443/v1/nodes/e2e-1";
        let size = |columns, rows| qr(url, columns, rows).map(|rows| (rows[0].chars().count(), rows.len()));
        // 29 modules on each side.
        assert_eq!(size(37, 19), Some((37, 19)));
        assert_eq!(size(36, 19), Some((33, 17)), "a narrower quiet zone");
        assert_eq!(size(200, 40), Some((74, 37)));
        assert_eq!(size(32, 40), None);
        assert_eq!(size(80, 16), None);
        assert_eq!(qr(&"x".repeat(4000), 500, 500), None, "more than a code holds");
    }
}
