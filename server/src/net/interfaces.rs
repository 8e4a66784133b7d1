//! Whether the interfaces are still those that sockets are bound to.

use nix::net::if_::if_nametoindex;
use std::time::Duration;

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(2);

/// Interfaces by name and number. Sockets are bound to a number; one that is made anew under the same
/// name, as by a restart of the system's network, has another.
#[derive(Debug)]
pub struct Interfaces(Vec<(String, u32)>);

impl Interfaces {
    /// The interfaces as they are now; those that are not there are left out.
    pub fn now<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        Self(
            names
                .into_iter()
                .filter_map(|name| Some((name.to_owned(), if_nametoindex(name).ok()?)))
                .collect(),
        )
    }

    /// Waits until one of them was made anew, and tells its name. One that is only gone may come back.
    pub async fn made_anew(&self) -> &str {
        let anew =
            |(name, number): &&(String, u32)| if_nametoindex(name.as_str()).is_ok_and(|now| now != *number);
        loop {
            tokio::time::sleep(EVERY).await;
            if let Some((name, _)) = self.0.iter().find(anew) {
                return name;
            }
        }
    }
}
