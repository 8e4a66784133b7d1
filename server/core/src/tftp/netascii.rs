//! Text on the wire (RFC 1350 §1, RFC 764): a line feed becomes CR LF, a carriage return CR NUL.
//!
//! A translated text is longer than the file, so block N does not lie at N times the block size.
//! An [`Index`], made in one pass, says how long the translation is and where to start reading
//! for any part of it: the transfer size is told honestly, and repetitions need no state.

use alloc::vec::Vec;

/// Translates text with bare line feeds.
#[must_use]
pub fn translate(text: &[u8]) -> Vec<u8> {
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

/// Bytes of text between two marks of an [`Index`].
const MARK_EVERY_BYTES: u64 = 8 << 10;

/// Where the parts of a translation lie in the text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Index {
    text_bytes: u64,
    translated_bytes: u64,
    /// The length of the translation of the first [`MARK_EVERY_BYTES`], of twice as many, …
    marks: Vec<u64>,
}

impl Index {
    /// Takes the next part of the text.
    pub fn extend(&mut self, mut text: &[u8]) {
        while !text.is_empty() {
            let to_mark = MARK_EVERY_BYTES - self.text_bytes % MARK_EVERY_BYTES;
            let len = usize::try_from(to_mark).map_or(text.len(), |len| len.min(text.len()));
            let (head, rest) = text.split_at(len);
            let doubled = head.iter().filter(|byte| matches!(byte, b'\n' | b'\r')).count();
            self.text_bytes += len as u64;
            self.translated_bytes += (len + doubled) as u64;
            if self.text_bytes.is_multiple_of(MARK_EVERY_BYTES) {
                self.marks.push(self.translated_bytes);
            }
            text = rest;
        }
    }

    /// Bytes of the text.
    #[must_use]
    pub const fn text_bytes(&self) -> u64 {
        self.text_bytes
    }

    /// Bytes of its translation.
    #[must_use]
    pub const fn translated_bytes(&self) -> u64 {
        self.translated_bytes
    }

    /// Where to begin to read the text for the byte at `offset` of the translation, and how many
    /// bytes of the translation from there on come before it.
    #[must_use]
    pub fn locate(&self, offset: u64) -> (u64, usize) {
        let passed = self.marks.partition_point(|&mark| mark <= offset);
        let mark = passed.checked_sub(1).and_then(|last| self.marks.get(last)).copied().unwrap_or(0);
        (passed as u64 * MARK_EVERY_BYTES, (offset - mark) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn line_ends_are_translated() {
        assert_eq!(translate(b"a\nb\r\n\nc"), b"a\r\nb\r\0\r\n\r\nc");
        assert_eq!(translate(b""), b"");
    }

    proptest! {
        #[test]
        fn p33_any_part_of_a_translation_is_found(
            text in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), any::<u8>()], 0..40_000),
            cut: prop::sample::Index,
            part: prop::sample::Index,
        ) {
            let (head, tail) = text.split_at(cut.index(text.len() + 1));
            let mut index = Index::default();
            index.extend(head);
            index.extend(tail);
            let whole = translate(&text);
            prop_assert_eq!(index.text_bytes(), text.len() as u64);
            prop_assert_eq!(index.translated_bytes(), whole.len() as u64);
            let offset = part.index(whole.len() + 1);
            let (start, skip) = index.locate(offset as u64);
            let from_mark = translate(&text[start as usize..]);
            prop_assert_eq!(&from_mark[skip..], &whole[offset..]);
        }
    }
}
