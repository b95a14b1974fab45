//! What the daemon learns of the network as it changes.

use super::{interface::InterfaceChange, wanted::Asking, ways::Way};
use crate::model::Target;

/// Something that the daemon should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The next hop to a target is known, other than before, or no longer known. May still come for a target that is
    /// not wanted any more.
    NextHop {
        /// The target.
        target: Target,
        /// Which asking for it this answers; see [`super::NextHops::is_current`].
        asking: Asking,
        /// Its next hop, or why there is none.
        result: Way,
    },
    /// An interface is new, other than before, renamed, or gone.
    Interface(InterfaceChange),
    /// The task had failed and was started anew: changes of interfaces may have been lost, [`super::Handle::interfaces`] has
    /// them as they are. Next hops come as events once more.
    Restarted,
}
