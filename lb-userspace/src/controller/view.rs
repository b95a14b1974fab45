//! The controller's state at a moment: a [`View`], which whoever reads asks instead of the controller. So no read waits
//! for a change, and no change for a read. What is asked may wait for a disk or walk over maps: it belongs on a thread
//! that may block.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Instant, SystemTime},
};

use lb_common::BackendState;

use super::{
    Applies, Controller, Diff, Error,
    file::{ConfigFile, Contents, Desired},
    interfaces::{Interface, Interfaces},
    losses::Found,
    node,
    problems::Problem,
};
use crate::{
    dataplane::{self, Attachment, LostFrames},
    health::Probes,
    model::{self, Config, Operations, Overridden, Readers, Target},
    network::Ways,
    plan::{Change, Removal},
    source::file::ReadError,
    tracking,
};

/// What the controller knew at a moment.
pub struct View {
    file: ConfigFile,
    applied: Arc<Desired>,
    /// When a config was last applied.
    pub applied_at: SystemTime,
    /// How many applies there were.
    pub applies: Applies,
    /// When the daemon started.
    pub started: Instant,
    /// The data plane.
    pub dataplane: dataplane::View,
    /// What is tracked in it.
    pub tracking: tracking::View,
    attachments: Vec<Attachment>,
    ways: Arc<Ways>,
    interfaces: Interfaces,
    losses: Found,
    /// What is not as the config wants it.
    pub problems: Vec<Problem>,
    /// The backends that are probed.
    pub probes: Arc<Probes>,
    /// Probes that were begun, and of those the ones that began more than 100 ms late.
    pub probes_begun: (u64, u64),
    /// How often the task that follows next hops and interfaces was started anew.
    pub netlink_restarts: u64,
}

/// The config file, compared with what runs.
#[derive(Debug)]
pub enum FileState {
    /// It is what runs.
    Applied,
    /// It has changes that are not applied.
    Changed,
    /// It is not a valid config.
    Invalid(Error),
    /// It cannot be read.
    Unreadable(ReadError),
}

impl Controller {
    /// What is known now.
    pub(super) fn view(&self) -> View {
        View {
            file: self.file.clone(),
            applied: Arc::clone(&self.applied),
            applied_at: self.applied_at,
            applies: self.applies,
            started: self.started,
            dataplane: self.dataplane.view(),
            tracking: self.upkeep.view(),
            attachments: self.dataplane.attachments(),
            ways: Arc::clone(self.next_hops.ways()),
            interfaces: self.interfaces.clone(),
            losses: self.losses.found().clone(),
            problems: self.problems.list(),
            probes: Arc::clone(self.health.probes()),
            probes_begun: self.health.punctuality().counts(),
            netlink_restarts: self.netlink.health().restarts,
        }
    }
}

impl View {
    /// The config that runs: the file's as it was applied, and what operators have done over it.
    pub fn config(&self) -> &Config {
        &self.applied.config
    }

    /// What operators have done over the file.
    pub fn operations(&self) -> &Operations {
        &self.applied.operations
    }

    /// The config file.
    pub fn file(&self) -> &ConfigFile {
        &self.file
    }

    /// Who may read what the API tells.
    pub(super) fn readers(&self) -> &Readers {
        &self.config().node.readers
    }

    /// What an apply of the file would do.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub fn diff(&self) -> Result<Diff, Error> {
        let wanted = self.file.with_seed(self.file.read(Some(&self.applied.sources))?)?;
        let removal = Removal::between(&self.applied.sources.config, &wanted.config);
        let (_, forgotten) = Desired::new(wanted.clone(), &self.applied.operations, &self.applied.verdicts);
        let overridden = self.applied.overridden(&wanted.config);
        let warnings = overridden.iter().filter_map(Overridden::warning).chain(forgotten).collect();
        Ok(Diff { changes: self.changes_to(wanted), removal, warnings })
    }

    /// What an apply of `wanted` would change; the order of VIPs and backends is no difference.
    pub(super) fn changes_to(&self, wanted: Contents) -> Vec<Change> {
        if wanted.config == self.applied.sources.config {
            return Vec::new();
        }
        let (wanted, _) = Desired::new(wanted, &self.applied.operations, &self.applied.verdicts);
        let plan = self.dataplane.plan(&wanted.config);
        let changes = node::merged(node::changes(self.config(), &wanted.config), plan.into_changes());
        node::merged(
            changes,
            self.applied.overridden(&wanted.sources.config).iter().map(node::overridden_change).collect(),
        )
    }

    /// How the config file relates to what runs, as it is now.
    pub fn file_state(&self) -> FileState {
        let read = self.file.read(Some(&self.applied.sources)).and_then(|contents| self.file.with_seed(contents));
        match read {
            Ok(contents) => match self.changes_to(contents).is_empty() {
                true => FileState::Applied,
                false => FileState::Changed,
            },
            Err(error @ ReadError::Invalid(_)) => FileState::Invalid(error.into()),
            Err(error @ (ReadError::Unreadable { .. } | ReadError::Seed { .. })) => FileState::Unreadable(error),
        }
    }

    /// What the operator should look at although it is allowed.
    pub fn warnings(&self) -> Vec<String> {
        let egress = self.interfaces.warnings(&self.attachments, self.config(), &self.ways);
        let left_out = self.interfaces.left_out();
        let losses = self.losses.warnings(|ifindex| self.interface_name(ifindex));
        self.config().warnings().iter().map(ToString::to_string).chain(left_out).chain(egress).chain(losses).collect()
    }

    /// That there is no VIP of this name, and what there is.
    pub fn no_such_vip(&self, name: &str) -> Error {
        Error::NoSuchVip { name: name.to_owned(), remedy: remedy(name, &self.config().vips) }
    }

    /// The state of a backend in the file as it was applied.
    pub fn file_state_of(&self, vip: &str, backend: IpAddr) -> Option<BackendState> {
        self.applied.state_below(vip, backend)
    }

    /// Whether the data plane is attached to any interface.
    pub fn is_attached(&self) -> bool {
        !self.attachments.is_empty()
    }

    /// Interfaces that are configured or attached.
    pub fn interfaces(&self) -> Vec<Interface> {
        self.interfaces.list(&self.attachments, &self.config().node)
    }

    /// Frames that were sent and lost behind the data plane.
    pub fn lost_frames(&self) -> Vec<LostFrames> {
        self.losses.frames()
    }

    /// The way to a backend of the config, or why there is none.
    pub fn way_to(&self, vip: &model::Vip, backend: &model::Backend) -> Result<&lb_common::NextHop, String> {
        self.ways.way_to(&Target::of(&self.config().node, vip, backend))
    }

    /// The way to where frames to a backend go, or why there is none.
    pub fn way_of(&self, target: &Target) -> Result<&lb_common::NextHop, String> {
        self.ways.way_to(target)
    }

    /// What an interface is called: as the config calls it, where it does and the data plane is attached to it; else as
    /// the kernel does.
    pub fn interface_name(&self, ifindex: u32) -> String {
        let named = |attachment: &&Attachment| self.config().node.interfaces.contains(&attachment.name);
        let attached = self.attachments.iter().filter(named).find(|attachment| attachment.ifindex == ifindex);
        attached.map_or_else(|| self.interfaces.name(ifindex), |attachment| attachment.name.clone())
    }

    /// What the kernel calls an interface.
    pub fn link_name(&self, ifindex: u32) -> String {
        self.interfaces.name(ifindex)
    }
}

/// What to say to somebody who named a VIP that there is not.
fn remedy(name: &str, vips: &[Arc<model::Vip>]) -> String {
    let closest =
        vips.iter().max_by(|a, b| strsim::jaro_winkler(&a.name, name).total_cmp(&strsim::jaro_winkler(&b.name, name)));
    match closest {
        Some(vip) => format!("did you mean `{}`? See `naru vip list`", vip.name),
        None => "there are no VIPs: see `naru vip add --help`".to_owned(),
    }
}
