//! What operators do to backends in passing: an overlay over what the sources want, which edits none of them.
//!
//! A drain before a disk is changed is no wish for ever, and often nobody's who may edit the file: it is remembered
//! beside the file, with who asked for it, when and why, and goes before the `state` of the file until it is taken
//! back.

use std::{
    collections::BTreeMap,
    fmt,
    net::IpAddr,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use lb_common::BackendState;
use serde::{Deserialize, Serialize};

use super::{Backend, Config, DrainDeadline, Lasting, Vip, Word as _, state_serde, suggest};

/// What is to be done to a backend.
///
/// As JSON: `{"op": "drain", "vip": "web", "address": "10.0.1.11", "why": "disk"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operate {
    /// What.
    pub op: Verb,
    /// Name of the VIP.
    pub vip: String,
    /// The backend's address.
    pub address: IpAddr,
    /// What for, in one line, for whoever comes across it later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Of a drain: when what is left is cut, whatever the VIP says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<DrainDeadline>,
    /// After which time it is taken back by itself.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub lasting: Option<Lasting>,
}

/// What can be done to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// It takes no new flows.
    Drain,
    /// It takes nothing.
    Down,
    /// It takes new flows again: what was done before is taken back, and so is the `state` of the file until that says
    /// `active` too. Its slow start is over.
    Restore,
}

/// What an operator has done to a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operation {
    /// Its state, whatever its source says.
    #[serde(with = "state_serde")]
    pub state: BackendState,
    /// Who asked for that, and by which way.
    pub by: String,
    /// When, in seconds since 1970.
    pub since: u64,
    /// What for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Of a drain: when what is left is cut, whatever the VIP says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<DrainDeadline>,
    /// When it is taken back by itself, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
}

/// Everything that operators have done and not taken back, by VIP and backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operations(BTreeMap<String, BTreeMap<IpAddr, Operation>>);

/// Why nothing is done to a backend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OperateError {
    /// No VIP of that name.
    #[error("no VIP is named `{name}`; {remedy}")]
    UnknownVip {
        /// The name asked for.
        name: String,
        /// What to do.
        remedy: String,
    },
    /// The VIP has no backend of that address.
    #[error("VIP `{vip}` has no backend `{address}`; {remedy}")]
    UnknownBackend {
        /// Name of the VIP.
        vip: String,
        /// The address asked for.
        address: IpAddr,
        /// What to do.
        remedy: String,
    },
    /// A deadline of what is no drain.
    #[error("only a drain has a deadline; leave it out")]
    Deadline,
    /// A time after which what was taken back is taken back.
    #[error("only a drain or a `down` lasts for a time; leave `for` out")]
    Lasting,
    /// The reason is no line of text.
    #[error("the reason is to be one line of at most {} characters, without control characters", Operate::MAX_WHY)]
    Why,
}

impl Operate {
    /// Longest reason, in characters.
    pub const MAX_WHY: usize = 200;
}

impl fmt::Display for Operate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { op, vip, address, why, deadline, lasting } = self;
        let op = match op {
            Verb::Drain => "drain",
            Verb::Down => "down",
            Verb::Restore => "restore",
        };
        write!(f, "{op} of backend {address} of vip {}", quoted(vip))?;
        deadline.map_or(Ok(()), |deadline| write!(f, " with deadline {deadline}"))?;
        lasting.map_or(Ok(()), |lasting| write!(f, " for {lasting}"))?;
        why.as_ref().map_or(Ok(()), |why| write!(f, " ({})", quoted(why)))
    }
}

impl Operations {
    /// What was done to a backend and not taken back.
    pub fn of(&self, vip: &str, backend: IpAddr) -> Option<&Operation> {
        self.0.get(vip)?.get(&backend)
    }

    /// All of them: name of the VIP, address of the backend, and what was done to it.
    pub fn iter(&self) -> impl Iterator<Item = (&str, IpAddr, &Operation)> {
        self.0.iter().flat_map(|(vip, backends)| {
            backends.iter().map(move |(backend, operation)| (vip.as_str(), *backend, operation))
        })
    }

    /// Remembers what was done to a backend; it goes before what was done to it earlier.
    pub fn set(&mut self, vip: &str, backend: IpAddr, operation: Operation) {
        self.0.entry(vip.to_owned()).or_default().insert(backend, operation);
    }

    /// Does to a backend of `base` what is asked for, by whom and at which second since 1970. Asked for the same again, what
    /// is not said anew stays as it is remembered: the deadline, the reason, how long it lasts, and, with nothing new at
    /// all, who and when.
    ///
    /// # Errors
    ///
    /// `base` has no such backend, or the reason is no line of text.
    pub fn operate(&mut self, base: &Config, asked: &Operate, by: &str, since: u64) -> Result<(), OperateError> {
        let Operate { op, vip, address, why, deadline, lasting } = asked;
        let why = why.as_ref().filter(|why| !why.trim().is_empty());
        if !why.is_none_or(|why| is_line(why)) {
            return Err(OperateError::Why);
        }
        if deadline.is_some() && *op != Verb::Drain {
            return Err(OperateError::Deadline);
        }
        if lasting.is_some() && *op == Verb::Restore {
            return Err(OperateError::Lasting);
        }
        let backend = find(base, vip, *address)?;
        let state = match op {
            Verb::Drain => BackendState::Drain,
            Verb::Down => BackendState::Down,
            Verb::Restore => BackendState::Active,
        };
        let known = self.of(vip, *address).filter(|known| known.state == state);
        let known_deadline = known.and_then(|known| known.deadline);
        let has_deadline = deadline.is_none_or(|deadline| known_deadline == Some(deadline));
        if known.is_some() && why.is_none() && has_deadline && lasting.is_none() {
            return Ok(());
        }
        let why = why.cloned().or_else(|| known?.why.clone());
        let until = lasting.map(|lasting| since.saturating_add(lasting.seconds())).or_else(|| known?.until);
        let operation =
            Operation { state, by: by.to_owned(), since, why, deadline: deadline.or(known_deadline), until };
        if has_no_say(&operation, backend) {
            self.forget(vip, *address);
        } else {
            self.set(vip, *address, operation);
        }
        Ok(())
    }

    /// Forgets what was done to backends that `base` does not have, and gives that back; forgets without a word what
    /// says no more than `base` does.
    pub fn prune(&mut self, base: &Config) -> Vec<(String, IpAddr, Operation)> {
        let mut homeless = Vec::new();
        if self.0.is_empty() {
            return homeless;
        }
        let vips: BTreeMap<&str, &Arc<Vip>> = base.vips.iter().map(|vip| (vip.name.as_str(), vip)).collect();
        self.0.retain(|name, backends| {
            let vip = vips.get(name.as_str());
            backends.retain(|address, operation| match vip.and_then(|vip| backend_of(vip, *address)) {
                Some(backend) => !has_no_say(operation, backend),
                None => {
                    homeless.push((name.clone(), *address, operation.clone()));
                    false
                }
            });
            !backends.is_empty()
        });
        homeless
    }

    /// Forgets what has lasted for as long as it was to, at a second since 1970, and gives that back.
    pub fn end(&mut self, now: u64) -> Vec<(String, IpAddr, Operation)> {
        let mut ended = Vec::new();
        self.0.retain(|name, backends| {
            backends.retain(|address, operation| {
                let has_ended = operation.until.is_some_and(|until| until <= now);
                if has_ended {
                    ended.push((name.clone(), *address, operation.clone()));
                }
                !has_ended
            });
            !backends.is_empty()
        });
        ended
    }

    /// What is wanted: `base` with what was done over it.
    pub fn over(&self, base: &Config) -> Config {
        let mut config = base.clone();
        if self.0.is_empty() {
            return config;
        }
        for vip in config.vips_mut() {
            let Some(operations) = self.0.get(&vip.name) else { continue };
            let wanted = |backend: &Backend| match operations.get(&backend.address) {
                Some(Operation { state, deadline, .. }) => {
                    Backend { state: *state, drain_deadline: *deadline, ..*backend }
                }
                None => *backend,
            };
            if vip.backends.iter().all(|backend| wanted(backend) == *backend) {
                continue;
            }
            for backend in &mut Arc::make_mut(vip).backends {
                *backend = wanted(backend);
            }
        }
        config
    }

    fn forget(&mut self, vip: &str, backend: IpAddr) {
        if let Some(backends) = self.0.get_mut(vip) {
            backends.remove(&backend);
            if backends.is_empty() {
                self.0.remove(vip);
            }
        }
    }
}

/// One line that shows what it says: nothing that moves a cursor, or turns the order of what stands beside it.
fn is_line(text: &str) -> bool {
    let is_hidden = |c: char| {
        c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().count() <= Operate::MAX_WHY && !text.contains(is_hidden)
}

/// What somebody wrote, fit for a log.
fn quoted(text: &str) -> String {
    text.chars().take(Operate::MAX_WHY).flat_map(char::escape_debug).collect()
}

/// To give a backend back what its source gives it anyway is nothing to remember.
fn has_no_say(operation: &Operation, backend: &Backend) -> bool {
    (operation.state, backend.state) == (BackendState::Active, BackendState::Active)
}

fn backend_of(vip: &Vip, address: IpAddr) -> Option<&Backend> {
    vip.backends.iter().find(|backend| backend.address == address)
}

fn find<'c>(config: &'c Config, name: &str, address: IpAddr) -> Result<&'c Backend, OperateError> {
    let near_or = |near: Vec<&str>, otherwise: &str| match near.as_slice() {
        [] => otherwise.to_owned(),
        near => format!("did you mean {}?", suggest::list(near.iter().copied())),
    };
    let Some(vip) = config.vip(name) else {
        let near = suggest::near(name, config.vips.iter().map(|vip| vip.name.as_str()));
        let remedy = near_or(near, "`naru vip list` shows the VIPs");
        return Err(OperateError::UnknownVip { name: quoted(name), remedy });
    };
    backend_of(vip, address).ok_or_else(|| {
        let known: Vec<String> = vip.backends.iter().map(|backend| backend.address.to_string()).collect();
        let near = suggest::near(&address.to_string(), known.iter().map(String::as_str));
        let remedy = near_or(near, "`naru backend list` shows its backends");
        OperateError::UnknownBackend { vip: name.to_owned(), address, remedy }
    })
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { state, by, since, why, deadline, until } = self;
        write!(f, "{} by {by} since ", state.word())?;
        write_date(f, *since)?;
        if let Some(until) = until {
            f.write_str(" until ")?;
            write_date(f, *until)?;
        }
        deadline.map_or(Ok(()), |deadline| write!(f, ", deadline {deadline}"))?;
        why.as_ref().map_or(Ok(()), |why| write!(f, ": {why}"))
    }
}

fn write_date(f: &mut fmt::Formatter<'_>, seconds: u64) -> fmt::Result {
    // Up to the year 9999 it is a date.
    match UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).filter(|_| seconds < 253_402_300_800) {
        Some(date) => write!(f, "{}", humantime::format_rfc3339_seconds(date)),
        None => write!(f, "second {seconds}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        [[vip]]
        name = "web"
        address = "203.0.113.10"
        ports = ["tcp/80"]
        forward = "ipip"
        backends = [{ address = "10.0.1.11" }, { address = "10.0.1.12", state = "drain" }]
        [[vip]]
        name = "dns"
        address = "203.0.113.53"
        ports = ["udp/53"]
        forward = "ipip"
        backends = [{ address = "10.0.1.11" }]
    "#;
    const ONE: &str = "10.0.1.11";
    const TWO: &str = "10.0.1.12";

    fn config(text: &str) -> Config {
        Config::parse(text, "f".as_ref()).unwrap()
    }

    fn ask(op: Verb, vip: &str, address: &str, why: Option<&str>) -> Operate {
        Operate {
            op,
            vip: vip.into(),
            address: address.parse().unwrap(),
            why: why.map(str::to_owned),
            deadline: None,
            lasting: None,
        }
    }

    fn done(operations: &mut Operations, op: Verb, address: &str) {
        operations.operate(&config(TEXT), &ask(op, "web", address, None), "root", 7).unwrap();
    }

    /// States in the order of the text, as they are wanted.
    fn states(operations: &Operations) -> Vec<BackendState> {
        let config = operations.over(&config(TEXT));
        config.vips.iter().flat_map(|vip| vip.backends.iter().map(|backend| backend.state)).collect()
    }

    #[test]
    fn what_lasts_for_a_time_ends_by_itself() {
        let mut operations = Operations::default();
        let config = config(TEXT);
        let asked = |op, lasting: &str| Operate { lasting: lasting.parse().ok(), ..ask(op, "web", ONE, Some("disk")) };
        operations.operate(&config, &asked(Verb::Drain, "30m"), "root", 1000).unwrap();
        let of = |operations: &Operations| operations.of("web", ONE.parse().unwrap()).cloned();
        assert_eq!(of(&operations).unwrap().until, Some(2800));
        let shown = of(&operations).unwrap().to_string();
        assert_eq!(shown, "drain by root since 1970-01-01T00:16:40Z until 1970-01-01T00:46:40Z: disk");
        // Asked for again without a time it lasts as long; with one, as long from then on.
        done(&mut operations, Verb::Drain, ONE);
        assert_eq!(of(&operations).unwrap().until, Some(2800));
        operations.operate(&config, &asked(Verb::Drain, "1m"), "root", 2000).unwrap();
        assert_eq!(of(&operations).unwrap().until, Some(2060));
        // Another state is another thing.
        operations.operate(&config, &ask(Verb::Down, "web", ONE, None), "root", 2001).unwrap();
        assert_eq!(of(&operations).unwrap().until, None);
        operations.operate(&config, &asked(Verb::Down, "1m"), "root", 2002).unwrap();
        done(&mut operations, Verb::Drain, TWO);
        assert_eq!(operations.end(2061), []);
        let ended = operations.end(2062);
        assert_eq!(ended.iter().map(|(_, address, _)| address.to_string()).collect::<Vec<_>>(), [ONE]);
        assert_eq!((of(&operations), operations.iter().count()), (None, 1));
        let refused = operations.operate(&config, &asked(Verb::Restore, "1m"), "root", 1);
        assert_eq!(refused, Err(OperateError::Lasting));
    }

    #[test]
    fn what_is_done_goes_before_the_file_until_it_is_taken_back() {
        use BackendState::{Active, Down, Drain};
        let mut operations = Operations::default();
        assert_eq!(states(&operations), [Active, Drain, Active]);
        done(&mut operations, Verb::Drain, ONE);
        assert_eq!(states(&operations), [Drain, Drain, Active]);
        done(&mut operations, Verb::Down, ONE);
        assert_eq!(states(&operations), [Down, Drain, Active]);
        done(&mut operations, Verb::Restore, ONE);
        assert_eq!((states(&operations), operations.iter().count()), (vec![Active, Drain, Active], 0));
        // What the file itself holds back serves as well, until the file says so too.
        done(&mut operations, Verb::Restore, TWO);
        assert_eq!(states(&operations), [Active, Active, Active]);
        assert_eq!(operations.prune(&config(TEXT)), []);
        assert_eq!(operations.iter().count(), 1);
        assert_eq!(operations.prune(&config(&TEXT.replace(", state = \"drain\"", ""))), []);
        assert_eq!(operations.iter().count(), 0);
    }

    #[test]
    fn only_what_is_done_to_is_another_vip() {
        let (base, mut operations) = (config(TEXT), Operations::default());
        done(&mut operations, Verb::Drain, ONE);
        done(&mut operations, Verb::Drain, TWO);
        let wanted = operations.over(&base);
        assert!(Arc::ptr_eq(&base.vips[1], &wanted.vips[1]));
        assert_ne!(base.vips[0], wanted.vips[0]);
    }

    #[test]
    fn the_same_again_stays_whose_it_was() {
        let (base, mut operations) = (config(TEXT), Operations::default());
        let mut operate = |why: Option<&str>, by: &str, since| {
            operations.operate(&base, &ask(Verb::Drain, "web", ONE, why), by, since).unwrap();
            operations.of("web", ONE.parse().unwrap()).cloned().unwrap()
        };
        let first = operate(Some("disk"), "alice", 1);
        assert_eq!(first.to_string(), "drain by alice since 1970-01-01T00:00:01Z: disk");
        assert_eq!(operate(None, "bob", 2), first);
        assert_eq!(operate(Some(" "), "bob", 2), first, "an empty reason is none");
        assert_eq!(operate(Some("kernel"), "bob", 3).to_string(), "drain by bob since 1970-01-01T00:00:03Z: kernel");
    }

    #[test]
    fn a_drain_may_have_a_deadline_and_nothing_else_has() {
        let (base, mut operations) = (config(TEXT), Operations::default());
        let within = |op, deadline: &str| Operate { deadline: deadline.parse().ok(), ..ask(op, "web", ONE, None) };
        let deadline_of = |operations: &Operations| operations.over(&base).vips[0].backends[0].drain_deadline;
        operations.operate(&base, &within(Verb::Drain, "10m"), "root", 1).unwrap();
        assert_eq!(deadline_of(&operations), "10m".parse().ok());
        // Said again without one, it stays; with another one, that is meant.
        operations.operate(&base, &ask(Verb::Drain, "web", ONE, None), "root", 2).unwrap();
        assert_eq!(deadline_of(&operations), "10m".parse().ok());
        let because = Some("disk");
        operations.operate(&base, &ask(Verb::Drain, "web", ONE, because), "root", 2).unwrap();
        assert_eq!(deadline_of(&operations), "10m".parse().ok());
        operations.operate(&base, &within(Verb::Drain, "20m"), "root", 3).unwrap();
        let known = operations.of("web", ONE.parse().unwrap()).unwrap();
        assert_eq!((known.why.as_deref(), known.deadline), (because, "20m".parse().ok()));
        operations.operate(&base, &ask(Verb::Restore, "web", ONE, None), "root", 3).unwrap();
        operations.operate(&base, &within(Verb::Drain, "none"), "root", 3).unwrap();
        assert_eq!(deadline_of(&operations), Some(DrainDeadline::NONE));
        assert_eq!(
            operations.of("web", ONE.parse().unwrap()).unwrap().to_string(),
            "drain by root since 1970-01-01T00:00:03Z, deadline none"
        );
        for op in [Verb::Down, Verb::Restore] {
            let error = operations.operate(&base, &within(op, "10m"), "root", 4).unwrap_err();
            assert_eq!(error, OperateError::Deadline);
        }
    }

    #[test]
    fn what_is_done_to_nobody_is_refused_with_a_remedy() {
        let mut operations = Operations::default();
        let mut refused = |vip: &str, address: &str, why: Option<&str>| {
            let error = operations.operate(&config(TEXT), &ask(Verb::Drain, vip, address, why), "root", 7);
            error.unwrap_err().to_string()
        };
        assert_eq!(refused("webb", ONE, None), "no VIP is named `webb`; did you mean `web`?");
        let text = refused("dns", TWO, None);
        assert_eq!(text, "VIP `dns` has no backend `10.0.1.12`; did you mean `10.0.1.11`?");
        for why in ["two\nlines", "\x1b[2J", "\u{202e}ksid", &"x".repeat(201)] {
            assert!(refused("web", ONE, Some(why)).contains("one line of at most 200"), "{why}");
        }
        assert_eq!(operations, Operations::default());
    }

    #[test]
    fn whatever_is_written_can_be_shown() {
        let operation = |since| Operation {
            state: BackendState::Down,
            by: "root".into(),
            since,
            why: None,
            deadline: None,
            until: None,
        };
        assert_eq!(operation(253_402_300_799).to_string(), "down by root since 9999-12-31T23:59:59Z");
        for since in [253_402_300_800, u64::MAX] {
            assert_eq!(operation(since).to_string(), format!("down by root since second {since}"));
        }
        let asked = ask(Verb::Down, "a\nb", ONE, Some("\x1b[2J"));
        assert_eq!(asked.to_string(), "down of backend 10.0.1.11 of vip a\\nb (\\u{1b}[2J)");
    }

    #[test]
    fn what_has_no_backend_any_more_is_given_back() {
        let mut operations = Operations::default();
        done(&mut operations, Verb::Drain, ONE);
        done(&mut operations, Verb::Drain, TWO);
        // The file's own drain of it is one more reason to remember this.
        assert_eq!(operations.iter().count(), 2);
        let left = TEXT.replace("{ address = \"10.0.1.11\" }, ", "");
        let homeless = operations.prune(&config(&left));
        let named: Vec<String> = homeless.iter().map(|(vip, address, _)| format!("{vip} {address}")).collect();
        assert_eq!(named, ["web 10.0.1.11"]);
        let homeless = operations.prune(&config("[node]\ninterfaces = []\n"));
        assert_eq!((homeless.len(), operations.iter().count()), (1, 0));
    }
}
