//! `naru backend drain --wait` and `naru backend remove --wait`: watches a backend until the last of its flows has
//! ended.
//!
//! It changes nothing: whoever interrupts it leaves the backend as the command before put it.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use super::{
    args::{BackendEdit, BackendName, BackendOperation, Wait},
    exit::{Exit, Failure},
    show::held_for,
};
use crate::{
    api::{
        client::{Client, ClientError},
        types::Backend,
    },
    model::Word as _,
};

/// How often the daemon is asked: it sweeps the flow table no more often than once a second.
const POLL: Duration = Duration::from_millis(500);

/// How long the daemon may be away: one that is restarted goes on with the drain.
const RESTART: Duration = Duration::from_secs(30);

/// How often it is said what is waited for.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// A backend that is watched until it has no flows.
#[derive(Debug)]
pub struct Watch {
    vip: String,
    address: IpAddr,
    until: Until,
    timeout: Option<Duration>,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    /// The daemon says that it is drained.
    Drained,
    /// The daemon does not list it any more.
    Gone,
}

/// Where a backend is on its way there.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    /// There.
    Done,
    /// Not yet, for want of this.
    Waits(String),
    /// It takes new flows again: somebody changed its state to this.
    TurnedBack(String),
}

impl Watch {
    /// What is to be waited for after a change, if anything.
    pub fn after(edit: &BackendEdit) -> Option<Self> {
        match edit {
            BackendEdit::Remove { backend, wait } => Self::of(backend, Until::Gone, wait),
            BackendEdit::Add { .. } | BackendEdit::Set { .. } => None,
        }
    }

    /// The same after what is no edit.
    pub fn after_operation(operation: &BackendOperation) -> Option<Self> {
        match operation {
            BackendOperation::Drain { backend, wait, .. } | BackendOperation::Maintain { backend, wait, .. } => {
                Self::of(backend, Until::Drained, wait)
            }
            BackendOperation::Down { .. } | BackendOperation::Restore { .. } => None,
        }
    }

    fn of(BackendName { vip, address }: &BackendName, until: Until, Wait { wait, timeout }: &Wait) -> Option<Self> {
        wait.then(|| Self { vip: vip.clone(), address: *address, until, timeout: *timeout })
    }

    /// Waits until it is there; says on stderr what it waits for.
    pub async fn run(self, client: &Client) -> Result<Exit, Failure> {
        let Self { vip, address, timeout, .. } = &self;
        let failed = |how: String| Err(Failure::new(Exit::Failed, format!("vip {vip}: backend {address} {how}")));
        let started = Instant::now();
        let mut heard = started;
        let mut reported: Option<Instant> = None;
        loop {
            let left = match self.look(client, &mut heard).await? {
                Progress::Done => {
                    eprintln!("vip {vip}: backend {address} has no flows any more");
                    return Ok(Exit::Ok);
                }
                Progress::TurnedBack(state) => return failed(format!("is {state}: it was changed while this waited")),
                Progress::Waits(left) => left,
            };
            if let Some(timeout) = timeout.filter(|timeout| started.elapsed() >= *timeout) {
                let timeout = humantime::format_duration(timeout);
                return failed(format!("is left with {left} after {timeout}; it takes no new flows"));
            }
            if reported.is_none_or(|reported| reported.elapsed() >= REPORT_EVERY) {
                eprintln!("vip {vip}: backend {address} is left with {left}");
                reported = Some(Instant::now());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// How far it is. `heard`: when the daemon last answered.
    async fn look(&self, client: &Client, heard: &mut Instant) -> Result<Progress, Failure> {
        let backends = match client.backends(Some(&self.vip)).await {
            Err(ClientError::NoDaemon { .. } | ClientError::Broken { .. } | ClientError::Busy(_))
                if heard.elapsed() < RESTART =>
            {
                return Ok(Progress::Waits("nobody to ask: the daemon does not answer".to_owned()));
            }
            answer => answer?,
        };
        *heard = Instant::now();
        Ok(self.progress(backends.iter().find(|backend| backend.address == self.address)))
    }

    fn progress(&self, backend: Option<&Backend>) -> Progress {
        let Some(backend) = backend else { return Progress::Done };
        let is_on_its_way = match self.until {
            Until::Drained => backend.is_removed() || backend.state != lb_common::BackendState::Active.word(),
            Until::Gone => backend.is_removed(),
        };
        match is_on_its_way {
            false => Progress::TurnedBack(backend.state.clone()),
            true if backend.drained && self.until == Until::Drained => Progress::Done,
            true => Progress::Waits(left(backend)),
        }
    }
}

/// What keeps a backend from being drained.
fn left(backend: &Backend) -> String {
    let Backend { flows, held_slots, .. } = backend;
    let flows = match (flows, held_slots) {
        // Flows are counted by sweeps, and the daemon rests between two of them.
        (0, 0) => return "what the next sweep over the flow table finds".to_owned(),
        (1, _) => "1 flow".to_owned(),
        _ => format!("{flows} flows"),
    };
    if *held_slots == 0 {
        return flows;
    }
    format!("{flows}, and {held_slots} slots that are held for idle ones, {}", held_for(backend))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::NextHop;

    fn watch(until: Until) -> Watch {
        Watch { vip: "web".into(), address: "10.0.1.12".parse().unwrap(), until, timeout: None }
    }

    fn backend(state: &str, held_slots: u32, drained: bool) -> Backend {
        Backend {
            vip: "web".into(),
            address: "10.0.1.12".parse().unwrap(),
            weight: 100,
            state: state.into(),
            health: None,
            slow_start: None,
            asked: None,
            operation: None,
            file_state: None,
            slots: 0,
            flows: 12,
            held_slots,
            held_seconds: 75,
            held_by_refusals: false,
            drained,
            cut_seconds: None,
            clients: Vec::new(),
            mac: None,
            mtu: None,
            next_hop: NextHop::Unknown { reason: "no route".into() },
        }
    }

    #[test]
    fn a_drain_ends_with_the_last_flow() {
        let progress = |backend: &Backend| watch(Until::Drained).progress(Some(backend));
        let held = "12 flows, and 5461 slots that are held for idle ones, 1m 15s at most";
        assert_eq!(progress(&backend("drain", 5461, false)), Progress::Waits(held.into()));
        assert_eq!(progress(&backend("drain", 0, false)), Progress::Waits("12 flows".into()));
        let uncounted = Backend { flows: 0, ..backend("drain", 0, false) };
        assert_eq!(progress(&uncounted), Progress::Waits("what the next sweep over the flow table finds".into()));
        assert_eq!(progress(&backend("drain", 0, true)), Progress::Done);
        assert_eq!(progress(&backend("down", 0, true)), Progress::Done);
        assert_eq!(progress(&backend("removed", 0, false)), Progress::Waits("12 flows".into()));
        assert_eq!(progress(&backend("active", 0, false)), Progress::TurnedBack("active".into()));
        assert_eq!(watch(Until::Drained).progress(None), Progress::Done);
    }

    #[test]
    fn a_removal_ends_when_the_backend_is_gone() {
        let progress = |backend: Option<&Backend>| watch(Until::Gone).progress(backend);
        assert_eq!(progress(Some(&backend("removed", 0, true))), Progress::Waits("12 flows".into()));
        assert_eq!(progress(Some(&backend("drain", 0, true))), Progress::TurnedBack("drain".into()));
        assert_eq!(progress(None), Progress::Done);
    }
}
