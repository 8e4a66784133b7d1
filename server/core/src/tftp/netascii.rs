//! Text on the wire.

use alloc::vec::Vec;

/// Translates text with bare line feeds to netascii (RFC 1350 §1, RFC 764): a line feed becomes
/// CR LF, a carriage return becomes CR NUL.
#[must_use]
pub fn to_netascii(text: &[u8]) -> Vec<u8> {
    let mut translated = Vec::with_capacity(text.len() + text.len() / 16);
    for &byte in text {
        match byte {
            b'\n' => translated.extend(b"\r\n"),
            b'\r' => translated.extend(b"\r\0"),
            other => translated.push(other),
        }
    }
    translated
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_ends_are_translated() {
        assert_eq!(to_netascii(b"a\nb\r\n\nc"), b"a\r\nb\r\0\r\n\r\nc");
        assert_eq!(to_netascii(b""), b"");
    }
}
