//! Whether a VIP can serve, by what is known of its backends, and what follows from that.

use super::{Backend, EchoReply, Health, Least, Vip};

/// Why a VIP cannot serve, whatever ways there are to its backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unready {
    /// None has a share of the flows.
    #[error("no backend takes flows")]
    NoneTakesFlows,
    /// All that have a share fail.
    #[error("all backends that take flows fail their probes")]
    AllFail,
    /// Too few work.
    #[error("{working} of {wanted} backends work, fewer than `min_healthy` ({least})")]
    TooFew {
        /// Backends that take flows and work.
        working: usize,
        /// Backends that would take flows if they all worked.
        wanted: usize,
        /// What is enough.
        least: Least,
    },
}

impl Vip {
    /// Why it cannot serve, by the states of its backends and what their probes say: `None` where it can, if there is a way
    /// to a backend that works.
    pub fn unready(&self) -> Option<Unready> {
        if self.serving().next().is_none() {
            return Some(Unready::NoneTakesFlows);
        }
        let wanted = self.backends.iter().filter(|own| own.effective_weight() > 0 || own.is_out).count();
        let least = self.health.as_ref().map_or(Health::MIN_HEALTHY, |health| health.min_healthy);
        let working = self.serving().filter(|own| !own.fails).count();
        if least.is_reached(working, wanted) {
            return None;
        }
        Some(if working == 0 { Unready::AllFail } else { Unready::TooFew { working, wanted, least } })
    }

    /// The backends that serve as well as it can: those that take flows and work, or if none works all that take flows.
    pub fn best(&self) -> impl Iterator<Item = &Backend> {
        let none_works = self.serving().all(|own| own.fails);
        self.serving().filter(move |own| !own.fails || none_works)
    }

    /// Whether its address answers echo requests on account of this VIP.
    pub fn answers_echo(&self) -> bool {
        match self.settings.echo {
            EchoReply::Always => true,
            EchoReply::Ready => self.unready().is_none(),
            EchoReply::Never => false,
        }
    }

    fn serving(&self) -> impl Iterator<Item = &Backend> {
        self.backends.iter().filter(|own| own.effective_weight() > 0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lb_common::BackendState;

    use super::*;
    use crate::{model::Check, plan::fixtures::vip};

    #[test]
    fn a_vip_is_ready_while_enough_of_its_backends_work() {
        let mut web = vip("web", "192.0.2.1", &["tcp/80"], &[]);
        let said = |vip: &Vip| vip.unready().map_or("ready".to_owned(), |reason| reason.to_string());
        assert_eq!(said(&web), "no backend takes flows");
        web = vip("web", "192.0.2.1", &["tcp/80"], &["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        assert_eq!(said(&web), "ready", "nobody asks");
        web.health = Some(Arc::new(Health { min_healthy: "2".parse().unwrap(), ..Health::new(Check::Tcp) }));
        (web.backends[0].state, web.backends[0].fails, web.backends[0].is_out) = (BackendState::Down, true, true);
        assert_eq!(said(&web), "ready");
        web.backends[1].fails = true;
        assert_eq!(said(&web), "1 of 3 backends work, fewer than `min_healthy` (2)");
        assert_eq!(web.best().count(), 1);
        web.backends[2].fails = true;
        assert_eq!(said(&web), "all backends that take flows fail their probes");
        assert_eq!(web.best().count(), 2);
    }

    #[test]
    fn an_address_answers_as_its_vip_says() {
        let mut web = vip("web", "192.0.2.1", &["tcp/80"], &["10.0.0.1"]);
        for (weight, expected) in [(1, [true, true, false]), (0, [true, false, false])] {
            web.backends[0].weight = weight;
            let answers = [EchoReply::Always, EchoReply::Ready, EchoReply::Never].map(|echo| {
                web.settings.echo = echo;
                web.answers_echo()
            });
            assert_eq!(answers, expected);
        }
    }
}
