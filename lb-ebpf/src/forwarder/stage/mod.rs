//! What happens to a packet, one stage a file. Each says "go on with this" or gives a reason to drop; only
//! [`pipeline`](crate::pipeline) calls them.

pub mod count;
pub mod flow;
pub mod own_mac;
pub mod slot;
pub mod vip;
