//! The links between interfaces and the program: attached once, pinned, and handed from program to program.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
};

use aya_obj::generated::{XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE};
use log::{info, warn};
use serde::{Deserialize, Serialize};

use super::{
    Error, Mode,
    interface::{program_name, running},
    place::{DECAP, interface_of, link_pins, links_of, lock, names, pin_name, remove, remove_tree, root_of, roots},
    sys::{LinkInfo, XdpLink},
};
use crate::{fault, model::XdpMode, network::interface_name};

/// Why generic mode, where the operator wants it.
const ASKED_FOR: &str = "`xdp_mode` in [node] asks for it";

/// An interface that the program runs on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Name of the interface.
    pub name: String,
    /// Its index.
    pub ifindex: u32,
    /// How the program is attached.
    pub mode: Mode,
    /// Why not native, where it is not.
    pub reason: Option<String>,
}

/// All links.
#[derive(Debug)]
pub struct Links {
    bpffs: PathBuf,
    directory: PathBuf,
    attached: BTreeMap<String, (XdpLink, Attachment)>,
}

/// What became of a link that is pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pinned {
    /// Its program runs on an interface of this network namespace.
    Running {
        /// Index of the interface.
        ifindex: u32,
        /// How it is attached.
        mode: Mode,
    },
    /// Its interface is in another network namespace.
    Elsewhere,
    /// Its interface is no more, or it was detached.
    Gone,
}

/// A program, for the kernel and for comparison.
#[derive(Clone, Copy)]
pub struct ProgramRef<'a> {
    /// The program.
    pub fd: BorrowedFd<'a>,
    /// Its id.
    pub id: u32,
}

impl Links {
    /// The links pinned in `directory`, which is below `bpffs`. Those of interfaces that are gone are removed.
    ///
    /// # Errors
    ///
    /// Something there is not the link of an XDP program, or its interface is in another network namespace.
    pub fn open(bpffs: &Path, directory: PathBuf) -> Result<Self, Error> {
        let found = open_all(&directory)?.into_iter();
        let attached = found.map(|(_, link, attachment)| (attachment.name.clone(), (link, attachment))).collect();
        Ok(Self { bpffs: bpffs.to_owned(), directory, attached })
    }

    /// Sees to it that every link runs `program`. Returns how many did not.
    ///
    /// # Errors
    ///
    /// The kernel does not put `program` in the place of another.
    pub fn hand_to(&self, program: ProgramRef<'_>) -> Result<usize, Error> {
        let mut handed = 0;
        for (name, (link, _)) in &self.attached {
            let path = self.pin(name);
            let info = link.info().map_err(Error::file("look at the link", &path))?;
            if info.program == program.id || info.ifindex == 0 {
                continue;
            }
            fault::point("hand a link over");
            if replace(link, &path, program)? {
                handed += 1;
            }
        }
        Ok(handed)
    }

    /// Attaches `program` to an interface, or keeps what is attached there already. Where the data plane of another ABI
    /// runs, and no daemon with it, its link is taken over: every packet meets that program or this one.
    ///
    /// # Errors
    ///
    /// The interface is occupied by a program of someone else, or refuses this one.
    pub fn attach(
        &mut self,
        name: &str,
        ifindex: u32,
        wanted: XdpMode,
        program: ProgramRef<'_>,
    ) -> Result<Attachment, Error> {
        check_name(name)?;
        let here = self.ifindex(name) == Some(ifindex);
        if !here {
            self.yield_name(name)?;
            self.follow_rename(name, ifindex)?;
        }
        if !self.attached.contains_key(name) {
            self.make_way(name, ifindex, program)?;
        }
        if let Some((_, attachment)) = self.attached.get_mut(name) {
            if mode_suits(wanted, attachment.mode) {
                if wanted == XdpMode::Generic {
                    attachment.reason = Some(ASKED_FOR.to_owned());
                }
                return Ok(attachment.clone());
            }
            self.detach(name)?;
        }
        let (link, mode, reason) = link(name, ifindex, wanted, program.fd)?;
        let path = self.pin(name);
        fault::point("pin a link");
        remove(&path)?;
        link.pin(&path).map_err(Error::file("pin the link", &path))?;
        let attachment = Attachment { name: name.to_owned(), ifindex, mode, reason };
        self.attached.insert(name.to_owned(), (link, attachment.clone()));
        Ok(attachment)
    }

    /// Detaches from an interface; `false` if nothing was attached there.
    ///
    /// # Errors
    ///
    /// As of [`detach_pinned`].
    pub fn detach(&mut self, name: &str) -> Result<bool, Error> {
        let was = detach_pinned(&self.pin(name))?;
        self.attached.remove(name);
        Ok(was)
    }

    /// The interfaces that are attached, by name.
    pub fn attachments(&self) -> impl Iterator<Item = &Attachment> {
        self.attached.values().map(|(_, attachment)| attachment)
    }

    /// Sees to it that no link of others is on an interface: another ABI's becomes one of these, any other is in the
    /// way.
    fn make_way(&mut self, name: &str, ifindex: u32, program: ProgramRef<'_>) -> Result<(), Error> {
        let problem = |error: io::Error| Error::Interface { name: name.to_owned(), problem: error.to_string() };
        let Some(running) = running(ifindex).map_err(problem)? else { return Ok(()) };
        let its = |pin: &PathBuf| {
            let info = XdpLink::from_pin(pin).and_then(|link| link.info());
            info.is_ok_and(|info| (info.ifindex, info.program) == (ifindex, running.program))
        };
        let pin = link_pins(&self.bpffs)?.into_iter().find(its);
        let is_dataplane = root_of(&self.bpffs, &self.pin(name)).is_some();
        let of_another_abi =
            |pin| root_of(&self.bpffs, pin).filter(|root| is_dataplane && !self.directory.starts_with(root));
        if let Some((pin, root)) = pin.as_ref().and_then(|pin| Some((pin, of_another_abi(pin)?))) {
            let reason = (running.mode == Mode::Generic).then(|| adopted_reason(&detach_command(pin, name)));
            let attachment = Attachment { name: name.to_owned(), ifindex, mode: running.mode, reason };
            return self.take_over(attachment, pin, root, program);
        }
        let remedy = match pin {
            Some(pin) => format!("take it off with `{}`", detach_command(&pin, name)),
            None => format!(
                "detach that one with what attached it, or with `ip link set dev {name} xdp off`, or where that says \
                 `busy` with `bpftool link detach`"
            ),
        };
        Err(Error::Occupied { name: name.to_owned(), program: program_name(running.program), remedy })
    }

    /// Has the link pinned at `pin`, in another data plane's directory `root`, run `program`, and moves the pin here.
    /// If that breaks off, the next attach repeats it.
    fn take_over(
        &mut self,
        attachment: Attachment,
        pin: &Path,
        root: &Path,
        program: ProgramRef<'_>,
    ) -> Result<(), Error> {
        let _lock = lock(root)?;
        self.move_here(open_pin(pin)?, attachment, pin, root, program)?;
        // What no interface runs any more goes.
        if names(&links_of(root))?.is_empty() { remove_tree(root) } else { Ok(()) }
    }

    /// Has all links of the data plane in `root`, which is this process's, run `program`, and moves their pins here.
    ///
    /// # Errors
    ///
    /// As [`Self::open`], and the kernel does not put `program` in the place of another.
    pub fn take_all(&mut self, root: &Path, program: ProgramRef<'_>) -> Result<(), Error> {
        for (pin, link, attachment) in open_all(&links_of(root))? {
            match self.ifindex(&attachment.name) {
                None => self.move_here(link, attachment, &pin, root, program)?,
                // It is the same one: whoever took it over was killed before the pin was removed.
                Some(ifindex) if ifindex == attachment.ifindex => drop(remove(&pin)?),
                // Another interface has the name by now: whoever attaches this one sorts that out.
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Has a link of another data plane run `program`, and moves its pin here.
    fn move_here(
        &mut self,
        link: XdpLink,
        attachment: Attachment,
        pin: &Path,
        root: &Path,
        program: ProgramRef<'_>,
    ) -> Result<(), Error> {
        fault::point("take a link over");
        if !replace(&link, pin, program)? {
            return remove(pin).map(drop);
        }
        let path = self.pin(&attachment.name);
        fault::point("pin a link that is taken over");
        link.pin(&path).map_err(Error::file("pin the link", &path))?;
        fault::point("remove the pin of a link that is taken over");
        remove(pin)?;
        info!("interface {} is taken over from the data plane pinned under {}", attachment.name, root.display());
        self.attached.insert(attachment.name.clone(), (link, attachment));
        Ok(())
    }

    /// Index of the interface that is attached under a name; `None` where it is gone, or none is.
    pub fn ifindex(&self, name: &str) -> Option<u32> {
        let (link, _) = self.attached.get(name)?;
        link.info().ok().map(|info| info.ifindex).filter(|ifindex| *ifindex != 0)
    }

    /// Another interface is to be attached under this name. The one that is keeps its link, under the name that it has
    /// now; where it is gone, so is the link.
    fn yield_name(&mut self, name: &str) -> Result<(), Error> {
        let now = self.ifindex(name).and_then(|ifindex| interface_name(ifindex).ok());
        match now.filter(|now| now != name && !self.attached.contains_key(now)) {
            Some(now) => self.rename(name, &now),
            None => self.detach(name).map(drop),
        }
    }

    /// An interface that was renamed keeps its link: the pin follows.
    fn follow_rename(&mut self, name: &str, ifindex: u32) -> Result<(), Error> {
        let is_it = |(link, _): &(XdpLink, Attachment)| link.info().is_ok_and(|info| info.ifindex == ifindex);
        let old = self.attached.iter().find(|(old, value)| *old != name && is_it(value)).map(|(old, _)| old.clone());
        match old {
            Some(old) => self.rename(&old, name),
            None => Ok(()),
        }
    }

    /// Keeps a link under another name, which no link has.
    fn rename(&mut self, old: &str, new: &str) -> Result<(), Error> {
        let (from, to) = (self.pin(old), self.pin(new));
        fs::rename(&from, &to).map_err(Error::file("rename the link", &from))?;
        if let Some((link, mut attachment)) = self.attached.remove(old) {
            info!("interface {old} is attached as {new} from now on");
            attachment.name = new.to_owned();
            self.attached.insert(new.to_owned(), (link, attachment));
        }
        Ok(())
    }

    fn pin(&self, name: &str) -> PathBuf {
        self.directory.join(pin_name(name))
    }
}

/// Has a link, pinned at `pin`, run `program`; `false` where its interface has gone this moment.
fn replace(link: &XdpLink, pin: &Path, program: ProgramRef<'_>) -> Result<bool, Error> {
    match link.replace(program.fd) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => Ok(false),
        Err(error) => Err(Error::file("replace the program of the link", pin)(error)),
    }
}

/// The links pinned in `directory`, each with its pin. Those of interfaces that are gone are removed.
fn open_all(directory: &Path) -> Result<Vec<(PathBuf, XdpLink, Attachment)>, Error> {
    let mut found = Vec::new();
    for pin in names(directory)? {
        let path = directory.join(&pin);
        let link = open_pin(&path)?;
        let name = interface_of(&pin);
        let (ifindex, mode) = match look_at(&link, &path)? {
            Pinned::Running { ifindex, mode } => (ifindex, mode),
            Pinned::Elsewhere => {
                let command = detach_command(&path, &name);
                return Err(Error::Elsewhere { name, command });
            }
            Pinned::Gone => {
                info!("interface {name} is gone: its link is removed");
                remove(&path)?;
                continue;
            }
        };
        let reason = (mode == Mode::Generic).then(|| adopted_reason(&detach_command(&path, &name)));
        found.push((path, link, Attachment { name, ifindex, mode, reason }));
    }
    Ok(found)
}

/// What became of the links pinned in `directory`, by interface. Changes nothing.
///
/// # Errors
///
/// Something there is not the link of an XDP program.
pub fn pinned(directory: &Path) -> Result<BTreeMap<String, Pinned>, Error> {
    let state = |pin: &String| {
        let path = directory.join(pin);
        Ok((interface_of(pin), look_at(&open_pin(&path)?, &path)?))
    };
    names(directory)?.iter().map(state).collect()
}

/// Names of the interfaces that a data plane pinned below `bpffs`, of whatever ABI, runs on. Changes nothing.
///
/// # Errors
///
/// As [`pinned`].
pub fn attached(bpffs: &Path) -> Result<Vec<String>, Error> {
    let running = |(name, state)| matches!(state, Pinned::Running { .. }).then_some(name);
    let mut attached = BTreeSet::new();
    for root in roots(bpffs)? {
        attached.extend(pinned(&links_of(&root))?.into_iter().filter_map(running));
    }
    Ok(attached.into_iter().collect())
}

/// Detaches a pinned link and removes the pin; `false` if there is none.
///
/// # Errors
///
/// What is pinned there is not a link, or cannot be removed.
pub fn detach_pinned(pin: &Path) -> Result<bool, Error> {
    match XdpLink::from_pin(pin) {
        Ok(link) => link.detach().map_err(Error::file("detach the link", pin))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(Error::file("open the link", pin)(error)),
    }
    remove(pin)
}

fn open_pin(path: &Path) -> Result<XdpLink, Error> {
    XdpLink::from_pin(path).map_err(Error::file("open the link", path))
}

/// An index names an interface in its own network namespace only, and the link does not say which that is: the program
/// tells whether the interface with this index, here, is the one.
fn look_at(link: &XdpLink, path: &Path) -> Result<Pinned, Error> {
    let info = || link.info().map_err(Error::file("look at the link", path));
    let LinkInfo { ifindex, program } = info()?;
    if ifindex == 0 {
        return Ok(Pinned::Gone);
    }
    match running(ifindex) {
        Ok(Some(running)) if running.program == program => Ok(Pinned::Running { ifindex, mode: running.mode }),
        Err(error) if error.raw_os_error() != Some(libc::ENODEV) => {
            Err(Error::file("ask for the interface of the link", path)(error))
        }
        // It may have gone in between.
        _ if info()?.ifindex == 0 => Ok(Pinned::Gone),
        _ => Ok(Pinned::Elsewhere),
    }
}

/// The command that takes the program of a pinned link off its interface.
fn detach_command(pin: &Path, name: &str) -> String {
    let decap = pin.components().any(|part| part.as_os_str().to_string_lossy().starts_with(DECAP));
    format!("naru {} detach {name}", if decap { "decap" } else { "interface" })
}

/// Room for an interface's other names and a final zero (`linux/if.h`).
const ALTIFNAMSIZ: usize = 128;

/// The kernel's own rules (`dev_valid_name`), so that a name is one file in the directory of pins.
fn check_name(name: &str) -> Result<(), Error> {
    let valid = !name.is_empty()
        && name.len() < ALTIFNAMSIZ
        && name != "."
        && name != ".."
        && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace());
    if valid {
        return Ok(());
    }
    let problem = "is not a name that an interface can have".to_owned();
    Err(Error::Interface { name: name.to_owned(), problem })
}

fn mode_suits(wanted: XdpMode, mode: Mode) -> bool {
    match wanted {
        XdpMode::Auto => true,
        XdpMode::Native => mode == Mode::Native,
        XdpMode::Generic => mode == Mode::Generic,
    }
}

/// The link, the mode that it got, and why not native.
fn link(
    name: &str,
    ifindex: u32,
    wanted: XdpMode,
    program: BorrowedFd<'_>,
) -> Result<(XdpLink, Mode, Option<String>), Error> {
    let native = || XdpLink::create(program, ifindex, XDP_FLAGS_DRV_MODE);
    let generic = || XdpLink::create(program, ifindex, XDP_FLAGS_SKB_MODE);
    let refused = |mode| move |error: io::Error| Error::Attach { name: name.to_owned(), mode, reason: refusal(&error) };
    match wanted {
        XdpMode::Native => Ok((native().map_err(refused(Mode::Native))?, Mode::Native, None)),
        XdpMode::Generic => Ok((generic().map_err(refused(Mode::Generic))?, Mode::Generic, Some(ASKED_FOR.to_owned()))),
        XdpMode::Auto => match native() {
            Ok(link) => Ok((link, Mode::Native, None)),
            Err(error) => {
                let reason = refusal(&error);
                warn!("interface {name} does not take native XDP, generic mode is used: {reason}");
                Ok((generic().map_err(refused(Mode::Generic))?, Mode::Generic, Some(reason)))
            }
        },
    }
}

/// Why a link that was found is in generic mode: whether native would work now cannot be tried beside it.
fn adopted_reason(detach: &str) -> String {
    format!("attached so by an earlier run; `{detach}` and attaching anew tries native mode again")
}

/// What the kernel said, and what it usually means.
fn refusal(error: &io::Error) -> String {
    let hint = match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => "the driver has no native XDP",
        Some(libc::EINVAL | libc::ERANGE | libc::EFBIG) => {
            "the driver cannot run this program as the interface is set up; often the MTU is too large for native XDP \
             or receive offloads (LRO) are on"
        }
        Some(libc::ENOSPC | libc::ENOMEM | libc::EBUSY) => {
            "the driver lacks queues or memory for XDP; fewer channels (`ethtool -L`) may help"
        }
        Some(libc::EPERM) => "the process lacks CAP_NET_ADMIN or CAP_BPF",
        Some(libc::ENODEV) => "there is no such interface in this network namespace",
        _ => return error.to_string(),
    };
    format!("{error}: {hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_no_file_names_are_refused() {
        for name in ["", ".", "..", "a/b", "a b", "a:b", &"x".repeat(128)] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        for name in ["eth0", "eth0.100", "0123456789abcde", "enP65536p1s0f0np0"] {
            assert!(check_name(name).is_ok(), "{name:?}");
        }
    }

    #[test]
    fn the_link_of_another_kind_of_object_is_refused() {
        assert!(XdpLink::from_pin(Path::new("/nonexistent")).is_err());
    }
}
