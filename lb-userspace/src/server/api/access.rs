//! What a peer may do on the socket.
//!
//! Root, the daemon's own user and members of the group [`GROUP`] may change things and read; `readers` in `[node]` may
//! read; nobody else may anything. Whoever may read learns addresses of clients (`/v1/flows`) as well as the config.
//! The mode of the socket lets in whoever may do something, and with `readers` set that is everybody: each request is
//! judged here, by the credentials that the kernel has of the peer. Groups are looked up at each request, so that a
//! change of `/etc/group` or of the config counts at once; credentials are those at the connection's beginning.

use nix::unistd::{Gid, Group};

use super::peer::Peer;
use crate::{model::Readers, server::Class};

/// Members of this group may change things, where the group exists.
pub const GROUP: &str = "naru";

/// What somebody may do, more and more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Nothing.
    Nothing,
    /// Read.
    Read,
    /// Read, and change.
    Change,
}

impl Access {
    /// Whose turns somebody has who may do this.
    pub fn class(self) -> Class {
        match self {
            Self::Change => Class::Operator,
            Self::Nothing | Self::Read => Class::Anybody,
        }
    }

    /// What `peer` may do. May ask the network, where groups come from there, but not for root or the daemon's own
    /// user.
    pub fn of(peer: &Peer, readers: &Readers) -> Self {
        Self::by(peer, readers, |name| Group::from_name(name).ok().flatten().map(|group| group.gid))
    }

    fn by(peer: &Peer, readers: &Readers, gid: impl Fn(&str) -> Option<Gid>) -> Self {
        let is_member = |name: &str| gid(name).is_some_and(|gid| peer.groups.contains(&gid));
        if peer.is_above() || is_member(GROUP) {
            return Self::Change;
        }
        let reads = match readers {
            Readers::All => true,
            Readers::Groups(groups) => groups.iter().any(|name| is_member(name)),
        };
        if reads { Self::Read } else { Self::Nothing }
    }
}

/// What to say to somebody who may not do what they ask for.
pub fn refusal(user: &str, has: Access, readers: &Readers) -> String {
    let change = format!("be root or a member of the group `{GROUP}`");
    let read = match readers {
        Readers::Groups(groups) if !groups.is_empty() => format!(", or to read, of {}", groups.join(" or ")),
        // Everybody may read, or nobody else.
        Readers::Groups(_) | Readers::All => String::new(),
    };
    match has {
        Access::Read | Access::Change => format!("user {user} may read and not change things: {change}"),
        Access::Nothing => format!("user {user} may not use this daemon: {change}{read}"),
    }
}

#[cfg(test)]
mod tests {
    use nix::unistd::Uid;

    use super::*;

    fn access(uid: u32, groups: &[u32], readers: &Readers) -> Access {
        let groups = groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        let peer = Peer { uid: Uid::from_raw(uid), groups, pid: 1 };
        let known = |name: &str| match name {
            "naru" => Some(Gid::from_raw(900)),
            "adm" => Some(Gid::from_raw(4)),
            _ => None,
        };
        Access::by(&peer, readers, known)
    }

    #[test]
    fn the_group_changes_readers_read_and_others_do_nothing() {
        let adm = Readers::Groups(vec!["nonexistent".into(), "adm".into()]);
        let none = Readers::Groups(Vec::new());
        assert_eq!(access(0, &[0], &none), Access::Change);
        assert_eq!(access(4_000_000, &[4_000_000, 900], &none), Access::Change);
        for (groups, readers, expected) in [
            (vec![4], &none, Access::Nothing),
            (vec![4], &adm, Access::Read),
            (vec![5], &adm, Access::Nothing),
            (vec![5], &Readers::All, Access::Read),
            (vec![4, 900], &adm, Access::Change),
        ] {
            assert_eq!(access(4_000_000, &groups, readers), expected, "{groups:?} {readers}");
        }
    }

    #[test]
    fn a_refusal_says_which_group_is_needed() {
        let adm = Readers::Groups(vec!["adm".into(), "ops".into()]);
        assert_eq!(
            refusal("eve", Access::Nothing, &adm),
            "user eve may not use this daemon: be root or a member of the group `naru`, or to read, of adm or ops"
        );
        assert_eq!(
            refusal("eve", Access::Read, &adm),
            "user eve may read and not change things: be root or a member of the group `naru`"
        );
    }
}
