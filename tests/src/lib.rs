//! What naru's end-to-end tests and its demo are made of.
//!
//! [`lab`] builds a network of namespaces, [`naru`] runs the real daemon and CLI in it, [`server`] and the clients
//! ([`load`], [`udp`], [`transfer`], [`connections`]) put real traffic through it; a [`site`] is all of that in place,
//! and so is a [`talk`] of long-lived connections.
//! [`answers`] answers probes of every protocol, [`probing`] probes backends from a site, and a [`crowd`] is thousands of
//! backends. [`frames`] and [`forwarder`]
//! put single frames through the real program. What not every kernel has is made here: a longer way ([`delay`]), a [`vlan`].
//! Nothing here pretends to be a part of naru.

pub mod answers;
pub mod connections;
pub mod crowd;
pub mod delay;
pub mod demo;
pub mod flood;
pub mod forwarder;
pub mod frames;
pub mod instructions;
pub mod lab;
pub mod limits;
pub mod live;
pub mod load;
pub mod maps;
pub mod naru;
pub mod netns;
pub mod pattern;
pub mod ping;
pub mod probing;
pub mod repair;
pub mod server;
pub mod service;
pub mod site;
pub mod talk;
pub mod transfer;
pub mod udp;
pub mod user;
pub mod vip_text;
pub mod vlan;
