//! What happens to a packet, one stage a file. Each says "go on with this", "not ours" or gives a reason to drop;
//! [`pipeline`](crate::pipeline) calls them, and only [`flow`] others, [`count`] and [`intake`], and [`probe`] one, [`slot`].

pub mod answer;
pub mod aside;
pub mod count;
pub mod echo;
pub mod flow;
pub mod intake;
pub mod own_mac;
pub mod probe;
pub mod refuse;
pub mod slot;
pub mod too_big;
pub mod vip;
