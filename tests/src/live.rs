//! Packets by the million, made in the kernel (BPF_PROG_TEST_RUN with live frames, Linux 5.18): a generator that sends
//! them from the router of a lab into its load balancer, and a sink at the same port, which takes in what comes back of
//! them.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context as _;
use aya::{
    Ebpf, EbpfLoader,
    maps::PerCpuArray,
    programs::{TestRun, TestRunAttrs, TestRunOptions, Xdp},
};
use lb_common::NextHop;
use lb_userspace::objects;
use nix::{
    net::if_::if_nametoindex,
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

use crate::{
    frames::Packet,
    lab::{Host, Lab},
};

/// The leg of the load balancer that generated packets come in by.
const LEG: &str = "eth0";

/// Clients of all generated packets, and of whatever else the sink is to take in. No host of a lab has an address in
/// here.
pub const CLIENTS: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 0);
/// Of their range: the lower 22 bits are a flow's.
const CLIENTS_MASK: u32 = !0 << 22;
/// Bytes behind a TCP header, for options or payload.
const REST: usize = 12;
const ETHERNET_LEN: usize = 14;
/// Of the template, which has room for IPv6 too.
const TEMPLATE_WORDS: usize = 15;

/// A TCP segment with SYN.
pub const SYN: u16 = 0x02;
/// A TCP segment in the middle of a connection.
pub const ACK: u16 = 0x10;

/// TCP segments without end.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    /// Where they are sent to, in IPv4.
    pub target: SocketAddr,
    /// The flags of a flow's segments, in turn.
    pub flags: [u16; 16],
    /// They belong to 2 to the power of this many flows; 32: no two segments of the first four billion belong to one
    /// flow.
    pub flow_bits: u32,
    /// 2 to the power of this many segments of one flow come in a row.
    pub row_bits: u32,
}

/// Sends a [`Stream`]. All of it comes from one CPU, the last that this process may use.
pub struct Generator {
    ebpf: Ebpf,
    frame: Vec<u8>,
    router: Host,
    cpu: CpuSet,
}

/// Counts and drops what the load balancer encapsulated of generated packets. Stays on its port until the lab goes.
pub struct Sink(Ebpf);

impl Generator {
    /// Makes it, for a lab with a [queue for each CPU](crate::lab::Builder::queue_per_cpu), whose load balancer serves
    /// the stream's target.
    ///
    /// # Errors
    ///
    /// When the kernel does not take the program.
    pub fn new(lab: &Lab, stream: Stream) -> anyhow::Result<Self> {
        let Stream { target, flags, flow_bits, row_bits } = stream;
        let frame = Packet::data(SocketAddr::new(CLIENTS.into(), 1024), target, &[0; REST]).frame();
        let (words, _) = frame[ETHERNET_LEN..].as_chunks::<4>();
        let mut template = [0; TEMPLATE_WORDS];
        for (word, bytes) in template.iter_mut().zip(words) {
            *word = u32::from_ne_bytes(*bytes);
        }
        let port = lab.port(LEG);
        let port_index = lab.router().run(|| if_nametoindex(port.as_str()))?;
        let macs = NextHop::new(lab.balancer().mac(LEG)?, lab.router().mac(&port)?, port_index, 0, 0).macs;
        let mut ebpf = EbpfLoader::new()
            .override_global("MACS", &macs, true)
            .override_global("FRAME_LEN", &(frame.len() as u32), true)
            .override_global("TEMPLATE", &template, true)
            .override_global("TCP", &1u32, true)
            .override_global("TCP_FLAGS", &flags, true)
            .override_global("TCP_STEP", &(REST as u32), true)
            .override_global("FROM_FIRST", &1u32, true)
            .override_global("FLOW_BITS", &flow_bits, true)
            .override_global("FLOW_FACTOR", &0x9e37_79b1_u32, true)
            .override_global("ROW_BITS", &row_bits, true)
            .override_global("EGRESS", &port_index, true)
            .load(objects::LAB)?;
        generator(&mut ebpf)?.load().context("the generator does not load")?;
        let mut cpu = CpuSet::new();
        cpu.set(last_cpu()?)?;
        Ok(Self { ebpf, frame, router: lab.router().clone(), cpu })
    }

    /// Sends the next packets of the stream, as fast as it goes.
    ///
    /// # Errors
    ///
    /// When the kernel has no live frames.
    pub fn send(&mut self, packets: u32) -> anyhow::Result<()> {
        let Self { ebpf, frame, router, cpu } = self;
        let program = generator(ebpf)?;
        router.run(|| {
            sched_setaffinity(Pid::from_raw(0), cpu).context("cannot stay on one CPU")?;
            let attrs = TestRunAttrs::new().xdp_live_frames(0);
            let options = TestRunOptions { data_in: Some(frame), repeat: packets, attrs, ..TestRunOptions::new() };
            program.test_run(options).context("the kernel sends no live frames: it needs to be Linux 5.18")?;
            Ok(())
        })
    }
}

impl Sink {
    /// Puts it in place.
    ///
    /// # Errors
    ///
    /// When the kernel does not take the program.
    pub fn open(lab: &mut Lab) -> anyhow::Result<Self> {
        let range = [CLIENTS.to_bits(), CLIENTS_MASK].map(u32::to_be);
        let mut ebpf = EbpfLoader::new().override_global("RANGE", &range, true).load(objects::LAB)?;
        let program: &mut Xdp = ebpf.program_mut("sink").context("no program sink in the lab's object")?.try_into()?;
        program.load().context("the sink does not load")?;
        lab.put_on_port(LEG, program)?;
        Ok(Self(ebpf))
    }

    /// Packets that it took in so far.
    ///
    /// # Errors
    ///
    /// When its counter cannot be read.
    pub fn absorbed(&self) -> anyhow::Result<u64> {
        let counts: PerCpuArray<_, u64> = self.0.map("ABSORBED").context("no map ABSORBED")?.try_into()?;
        Ok(counts.get(&0, 0)?.iter().sum())
    }
}

fn generator(ebpf: &mut Ebpf) -> anyhow::Result<&mut Xdp> {
    Ok(ebpf.program_mut("bench_generate").context("no program bench_generate in the lab's object")?.try_into()?)
}

/// The last CPU that this process may use.
fn last_cpu() -> anyhow::Result<usize> {
    let allowed = sched_getaffinity(Pid::from_raw(0))?;
    let last = (0..CpuSet::count()).rev().find(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    last.context("this process may use no CPU")
}
