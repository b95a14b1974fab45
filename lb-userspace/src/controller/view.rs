//! The controller's state at a moment: a [`View`], which whoever reads asks instead of the controller. So no read waits
//! for a change, and no change for a read. What is asked may wait for a disk or walk over maps: it belongs on a thread
//! that may block.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use super::{
    Applies, Controller, Error,
    change::merged,
    file::{ConfigFile, Contents},
    interfaces::{Interface, Interfaces},
    losses::Found,
    next_hops::{NextHops, target},
    node,
    problems::Problem,
};
use crate::{
    dataplane::{self, Attachment, LostFrames},
    model::{self, Config, Readers},
    plan::{Change, Destination, Removal},
    source::file::ReadError,
    tracking,
};

/// What the controller knew at a moment.
pub struct View {
    file: ConfigFile,
    applied: Arc<Contents>,
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
    next_hops: Arc<NextHops>,
    interfaces: Interfaces,
    losses: Found,
    /// What is not as the config wants it.
    pub problems: Vec<Problem>,
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
            next_hops: Arc::clone(&self.next_hops),
            interfaces: self.interfaces.clone(),
            losses: self.losses.found().clone(),
            problems: self.problems.list(),
            netlink_restarts: self.netlink.health().restarts,
        }
    }
}

impl View {
    /// The config that runs.
    pub fn config(&self) -> &Config {
        &self.applied.config
    }

    /// The config file.
    pub fn file(&self) -> &ConfigFile {
        &self.file
    }

    /// Who may read what the API tells.
    pub(super) fn readers(&self) -> &Readers {
        &self.config().node.readers
    }

    /// What an apply of the file would change, and what it would take away that takes force.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or there is no way from what runs to what it says.
    pub fn diff(&self) -> Result<(Vec<Change>, Option<Removal>), Error> {
        let wanted = self.file.with_seed(self.file.read(Some(&self.applied))?)?.config;
        Ok((self.changes_to(&wanted)?, Removal::between(self.config(), &wanted)))
    }

    /// What differs between what runs and `wanted`; the order of VIPs and backends is no difference.
    pub(super) fn changes_to(&self, wanted: &Config) -> Result<Vec<Change>, Error> {
        if wanted == self.config() {
            return Ok(Vec::new());
        }
        let plan = self.dataplane.plan(wanted)?;
        Ok(merged(node::changes(self.config(), wanted), plan.into_changes()))
    }

    /// How the config file relates to what runs, as it is now.
    pub fn file_state(&self) -> FileState {
        let read = self.file.read(Some(&self.applied)).and_then(|contents| self.file.with_seed(contents));
        match read {
            Ok(contents) => match self.changes_to(&contents.config) {
                Ok(changes) if changes.is_empty() => FileState::Applied,
                Ok(_) => FileState::Changed,
                Err(error) => FileState::Invalid(error),
            },
            Err(error @ ReadError::Invalid(_)) => FileState::Invalid(error.into()),
            Err(error @ (ReadError::Unreadable { .. } | ReadError::Seed { .. })) => FileState::Unreadable(error),
        }
    }

    /// What the operator should look at although it is allowed.
    pub fn warnings(&self) -> Vec<String> {
        let egress = self.interfaces.warnings(&self.attachments, self.config(), &self.next_hops);
        let left_out = self.interfaces.left_out();
        let losses = self.losses.warnings(|ifindex| self.interface_name(ifindex));
        self.config().warnings().iter().map(ToString::to_string).chain(left_out).chain(egress).chain(losses).collect()
    }

    /// That there is no VIP of this name, and what there is.
    pub fn no_such_vip(&self, name: &str) -> Error {
        Error::NoSuchVip { name: name.to_owned(), remedy: remedy(name, &self.config().vips) }
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
        self.next_hops.way_to(&target(&self.config().node, vip, backend))
    }

    /// The way to where frames to a backend go, or why there is none.
    pub fn way_of(&self, destination: Destination) -> Result<&lb_common::NextHop, String> {
        self.next_hops.way_to(&super::follow::target(destination))
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
