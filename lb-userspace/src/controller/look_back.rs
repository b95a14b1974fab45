//! The last look at a config file that an edit has replaced: see [`Replaced`].

use std::sync::mpsc::{Sender, channel};

use tokio::task::{JoinHandle, spawn_blocking};

use crate::disk::{Replaced, Rescue};

/// At most one file that is still to be looked at.
#[derive(Debug, Default)]
pub struct LookBack(Option<(Sender<()>, JoinHandle<()>)>);

impl LookBack {
    /// Looks in a second. The one before must have ended.
    pub fn begin(&mut self, replaced: Replaced) {
        let (now, never) = channel();
        let look = move || match replaced.look_back(&never) {
            Ok(None) => {}
            Ok(Some(Rescue::Restored)) => log::warn!(
                "the config file was saved while it was being edited by command: it is as it was saved, and the edit \
                 is in force, but not in the file; see `naru diff`"
            ),
            Ok(Some(Rescue::Kept(path))) => log::warn!(
                "the config file was saved while it was being edited by command: what was saved is in {}",
                path.display()
            ),
            Err(error) => log::error!("{error}: whether somebody saved to it meanwhile is not known"),
        };
        self.0 = Some((now, spawn_blocking(look)));
    }

    /// Looks now, and gives back what is to be waited for.
    pub fn end(&mut self) -> Option<JoinHandle<()>> {
        self.0.take().map(|(_, task)| task)
    }
}
