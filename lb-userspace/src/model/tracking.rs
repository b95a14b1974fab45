//! What the flows of a VIP are, and which of them are remembered.

use std::{fmt, str::FromStr};

use super::{
    UnknownValue, Word,
    word::{text_serde, words},
};

words! {
    /// What of a packet makes its flow.
    FlowHash: "hash" {
        /// Both addresses, both ports and the protocol.
        FiveTuple = "5-tuple",
        /// The source address alone, so that a client keeps its backend.
        SourceIp = "source-ip",
    }
}

words! {
    /// Which flows of a VIP the data plane remembers.
    Tracking: "tracking" {
        /// Those on the slots that a change gives to another backend, so that it breaks none of them.
        Adaptive = "adaptive",
        /// Every flow, as Katran and IPVS do.
        Always = "always",
        /// None: a change of the backends breaks the flows on the slots that it moves.
        Never = "never",
    }
}
