//! `[images]`

use jiff::Timestamp;
use kaltstart_trust::images::{ImageKey, ImageTrust, KEYS_MAX};
use serde::Deserialize;
use std::path::PathBuf;

/// `[images]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Images {
    /// Directory with `NAME/manifest.json`, its signature and the file it names.
    pub dir: PathBuf,
    /// Public keys of minisign; images that none of them has signed are refused.
    #[serde(default)]
    pub keys: Vec<ImageKey>,
    /// Images that were signed before are refused.
    pub signed_since: Option<Timestamp>,
}

impl Images {
    /// Whose images are believed.
    #[must_use]
    pub fn trust(&self) -> ImageTrust {
        let since = self.signed_since.map_or(0, |time| u64::try_from(time.as_second()).unwrap_or(0));
        ImageTrust { keys: self.keys.clone(), since }
    }

    pub(super) fn problems(&self, is_used: bool, all: &mut Vec<String>) {
        if self.keys.is_empty() && is_used {
            all.push(
                "images.keys is empty, so no image is believed: name the public key that signs yours \
                 (`minisign -G` makes a pair, `minisign -S -m manifest.json` signs)"
                    .to_owned(),
            );
        }
        if self.keys.len() > KEYS_MAX {
            all.push(format!("images.keys: more than {KEYS_MAX} do not fit on a kernel command line"));
        }
    }
}
