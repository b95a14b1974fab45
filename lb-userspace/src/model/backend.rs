//! A real server.

use std::net::IpAddr;

use lb_common::{BackendState, SlowStart};

use super::{DrainDeadline, Mac, WayMtu, Word};

/// A real server of a VIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backend {
    /// Its own address, as opposed to the VIP's.
    pub address: IpAddr,
    /// Share of the VIP's flows in proportion to the other weights, `0..=65535`.
    pub weight: u32,
    /// Whether it takes flows at all.
    pub state: BackendState,
    /// Its MAC address, where nobody else is to be believed about that; with `l2` only.
    pub mac: Option<Mac>,
    /// The largest packet that the way to it carries, where that is not as the VIP says.
    pub mtu: Option<WayMtu>,
    /// What an operator has said of this drain, where that goes before the VIP's.
    pub drain_deadline: Option<DrainDeadline>,
    /// 0 for those that serve always; others stand by.
    pub tier: u8,
    /// Whether it fails its probes.
    pub fails: bool,
    /// Whether `state` is what follows from that.
    pub is_out: bool,
    /// Whether `state` is what follows from its tier: enough of those before it work.
    pub stands_by: bool,
    /// How far it is, where it has failed and has a part of its slots only.
    pub slow_start: Option<SlowStart>,
}

impl Backend {
    /// Weight of a backend that does not say.
    pub const DEFAULT_WEIGHT: u32 = 100;
    /// Largest tier.
    pub const MAX_TIER: u8 = 9;
    /// Largest weight.
    pub const MAX_WEIGHT: u32 = 65_535;

    /// One that says no more than its address.
    pub fn plain(address: IpAddr) -> Self {
        Self {
            address,
            weight: Self::DEFAULT_WEIGHT,
            state: BackendState::Active,
            mac: None,
            mtu: None,
            drain_deadline: None,
            tier: 0,
            fails: false,
            is_out: false,
            stands_by: false,
            slow_start: None,
        }
    }

    /// The weight that counts for new flows: none unless the backend is active.
    pub fn effective_weight(&self) -> u32 {
        match self.state {
            BackendState::Active => self.weight,
            BackendState::Drain | BackendState::Down => 0,
        }
    }
}

impl Word for BackendState {
    const WHAT: &'static str = "state";
    const WORDS: &'static [(&'static str, Self)] =
        &[("active", Self::Active), ("drain", Self::Drain), ("down", Self::Down)];
}

/// Serde for a [`BackendState`], which lives in a crate without serde: `#[serde(with = "state_serde")]`.
pub mod state_serde {
    use lb_common::BackendState;
    use serde::{Deserialize, Deserializer, Serializer};

    use super::Word;

    /// As the config spells it.
    pub fn serialize<S: Serializer>(state: &BackendState, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(state.word())
    }

    /// As the config spells it.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BackendState, D::Error> {
        let text = std::borrow::Cow::<'_, str>::deserialize(deserializer)?;
        BackendState::from_word(&text).map_err(serde::de::Error::custom)
    }

    /// The same for an optional state; absent and `null` are `None`.
    pub mod option {
        use super::*;

        /// As the config spells it.
        pub fn serialize<S: Serializer>(state: &Option<BackendState>, serializer: S) -> Result<S::Ok, S::Error> {
            match state {
                Some(state) => super::serialize(state, serializer),
                None => serializer.serialize_none(),
            }
        }

        /// As the config spells it.
        pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<BackendState>, D::Error> {
            let text = Option::<std::borrow::Cow<'_, str>>::deserialize(deserializer)?;
            text.map(|text| BackendState::from_word(&text)).transpose().map_err(serde::de::Error::custom)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_active_backends_have_weight() {
        let backend = |state| Backend { weight: 7, state, ..Backend::plain(IpAddr::from([10, 0, 0, 1])) };
        assert_eq!(backend(BackendState::Active).effective_weight(), 7);
        assert_eq!(backend(BackendState::Drain).effective_weight(), 0);
        assert_eq!(backend(BackendState::Down).effective_weight(), 0);
    }
}
