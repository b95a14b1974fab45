//! The rules of flow tracking: which backend a packet goes to on a slot that moves, and what the flow tables learn from
//! it.
//!
//! After Mendelson et al., "Load Balancing with JET: Just Enough Tracking for Connection Consistency" (CoNEXT 2021),
//! which tracks only what a change can put at risk, and the second chance of GitHub's GLB director. Pure: the `flow`
//! stage looks entries up and writes them, tests and models run the same rules on the host.
//!
//! That a client has ended its TCP connection is believed of a FIN or RST only where its sequence number is the one
//! that the stream had come to (as RFC 5961 §3.2 has receivers do): who does not see the stream cannot make its entry
//! go.
//!
//! A SYN with FIN or RST opens nothing and ends nothing: no client sends it, every receiver discards it or answers with
//! RST. It goes where any other packet of its flow would, so that the backend answers as it would without a load
//! balancer, and the tables learn nothing from it: whoever sends such by the million fills no table and keeps no entry
//! alive.

use lb_common::{FlowEntry, FlowOutcome, FlowState, NO_ID, Position, Slot, Tick};

use crate::wire::{TCP, TcpFlags, Transport};

/// What becomes of a packet and of its flow's entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The entry of the flow from now on; the packet goes to its backend.
    pub entry: FlowEntry,
    /// What this was.
    pub outcome: FlowOutcome,
}

/// Of a packet whose flow has an entry; `is_down`: the entry's backend is down.
#[inline(always)]
pub fn follow(entry: FlowEntry, slot: Slot, transport: &Transport, now: Tick, is_down: bool) -> Decision {
    if transport.contradicts() {
        let entry = if is_down { entry.of_backend(slot.current()) } else { entry };
        return Decision { entry, outcome: if is_down { FlowOutcome::Rerouted } else { FlowOutcome::Known } };
    }
    let opens = transport.opens();
    if is_down {
        // A connection that is under way ends with the RST that the current owner answers with.
        let state = if opens || transport.protocol != TCP { state_of_first(transport) } else { FlowState::Fin };
        let entry = FlowEntry::new(slot.current(), state, now, position_after(transport));
        return Decision { entry, outcome: FlowOutcome::Rerouted };
    }
    if opens && entry.state().is_closing() {
        return Decision { entry: first_entry(slot.current(), transport, now), outcome: FlowOutcome::Reopened };
    }
    let entry = if transport.protocol == TCP {
        advanced(entry, transport, now)
    } else {
        FlowEntry::new(entry.backend(), FlowState::Open, now, entry.next())
    };
    Decision { entry, outcome: FlowOutcome::Known }
}

/// Whether a packet of a flow in the embryonic table shows that there is more to it than its first packet.
#[inline(always)]
pub fn promotes(transport: &Transport) -> bool {
    !transport.flags().contains(TcpFlags::SYN) && !transport.flags().contains(TcpFlags::RST)
}

/// Of a packet whose flow has no entry: `Opened` and `Kept` say that it is to be entered. `always`: the VIP tracks
/// every flow; `is_down`: the slot's settled owner is down.
#[inline(always)]
pub fn enter(slot: Slot, transport: &Transport, now: Tick, always: bool, is_down: bool) -> Decision {
    let is_tcp = transport.protocol == TCP;
    let is_new = if is_tcp { transport.opens() } else { !slot.keeps_udp() };
    let goes_to_current = is_new || is_down;
    let backend = if goes_to_current { slot.current() } else { slot.settled_owner() };
    let entry = first_entry(backend, transport, now);
    let ends = transport.flags().contains(TcpFlags::RST) || transport.contradicts();
    let is_at_risk = always || slot.current() != slot.settled_owner();
    let outcome = if is_tcp && !is_new && is_down {
        FlowOutcome::Rerouted
    } else if !is_at_risk || ends || backend == NO_ID {
        FlowOutcome::Passed
    } else if goes_to_current {
        FlowOutcome::Opened
    } else {
        FlowOutcome::Kept
    };
    Decision { entry, outcome }
}

/// The entry after another TCP segment of its flow.
#[inline(always)]
fn advanced(entry: FlowEntry, transport: &Transport, now: Tick) -> FlowEntry {
    let at = Position::of(transport.sequence());
    let continues = at.continues(entry.next());
    let (fin, rst) = (transport.flags().contains(TcpFlags::FIN), transport.flags().contains(TcpFlags::RST));
    if rst && !continues {
        return entry;
    }
    let state = match entry.state() {
        _ if rst => FlowState::Rst,
        _ if fin && continues => FlowState::Fin,
        // A client that has sent FIN sends nothing new, but it acknowledges for as long as the backend sends.
        FlowState::Fin if transport.data_len() == 0 || at.from(entry.next()) < 0 => FlowState::Fin,
        FlowState::Syn if transport.opens() => FlowState::Syn,
        _ => FlowState::Open,
    };
    let after = position_after(transport);
    let next = match state {
        FlowState::Syn => after,
        _ => after.advanced_from(entry.next()),
    };
    FlowEntry::new(entry.backend(), state, now, next)
}

#[inline(always)]
fn first_entry(backend: u32, transport: &Transport, now: Tick) -> FlowEntry {
    FlowEntry::new(backend, state_of_first(transport), now, position_after(transport))
}

#[inline(always)]
fn state_of_first(transport: &Transport) -> FlowState {
    if transport.opens() {
        FlowState::Syn
    } else if transport.flags().contains(TcpFlags::FIN) {
        FlowState::Fin
    } else {
        FlowState::Open
    }
}

/// Where the client's stream goes on behind this segment; SYN and FIN take a sequence number each (RFC 9293 §3.4).
#[inline(always)]
fn position_after(transport: &Transport) -> Position {
    let TcpFlags(flags) = transport.flags();
    let marks = (flags & 1) + (flags >> 1 & 1);
    Position::of(transport.sequence().wrapping_add(transport.data_len()).wrapping_add(marks as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: u32 = 1;
    const B: u32 = 2;
    const NOW: Tick = Tick(100);
    const LATER: Tick = Tick(200);
    const ISN: u32 = 0xffff_ff00;

    fn segment(flags: u8, sequence: u32, data_len: u32) -> Transport {
        Transport::segment(0, TcpFlags(flags), sequence, data_len)
    }

    fn syn() -> Transport {
        segment(0x02, ISN, 0)
    }

    fn ack(sequence: u32, data_len: u32) -> Transport {
        segment(0x10, sequence, data_len)
    }

    fn fin(sequence: u32) -> Transport {
        segment(0x11, sequence, 0)
    }

    fn rst(sequence: u32) -> Transport {
        segment(0x04, sequence, 0)
    }

    fn datagram() -> Transport {
        Transport::datagram(0, 100)
    }

    fn moving() -> Slot {
        Slot::moving(B, A, NOW)
    }

    fn entered(transport: &Transport) -> (u32, FlowState, FlowOutcome) {
        let Decision { entry, outcome } = enter(moving(), transport, LATER, false, false);
        (entry.backend(), entry.state(), outcome)
    }

    /// The state of an open flow of B, which has come to sequence number `at`, after these segments.
    fn after(at: u32, segments: &[Transport]) -> FlowState {
        let mut entry = FlowEntry::new(B, FlowState::Open, NOW, Position::of(at));
        for segment in segments {
            entry = follow(entry, moving(), segment, LATER, false).entry;
            assert_eq!(entry.backend(), B, "{segment:?} moved the flow");
        }
        entry.state()
    }

    #[test]
    fn new_flows_go_to_the_current_owner_and_others_stay() {
        assert_eq!(entered(&syn()), (B, FlowState::Syn, FlowOutcome::Opened));
        assert_eq!(entered(&ack(1, 0)), (A, FlowState::Open, FlowOutcome::Kept));
        assert_eq!(entered(&fin(1)), (A, FlowState::Fin, FlowOutcome::Kept));
        assert_eq!(entered(&rst(1)), (A, FlowState::Open, FlowOutcome::Passed));
        assert_eq!(entered(&datagram()), (A, FlowState::Open, FlowOutcome::Kept));
        let without_udp = moving().aged(Tick(NOW.0 + 10), 1000, 10);
        let decision = enter(without_udp, &datagram(), LATER, false, false);
        assert_eq!((decision.entry.backend(), decision.outcome), (B, FlowOutcome::Opened));
    }

    #[test]
    fn what_no_change_puts_at_risk_is_not_entered() {
        for (slot, owner) in [(Slot::settled(A), A), (moving().aged(Tick(NOW.0 + 100), 100, 10), B)] {
            for transport in [syn(), ack(1, 10), datagram()] {
                let decision = enter(slot, &transport, LATER, false, false);
                assert_eq!((decision.entry.backend(), decision.outcome), (owner, FlowOutcome::Passed));
                let decision = enter(slot, &transport, LATER, true, false);
                assert_eq!(decision.entry.backend(), owner);
                assert!(matches!(decision.outcome, FlowOutcome::Opened | FlowOutcome::Kept));
            }
        }
        let nobody = Slot::moving(NO_ID, A, NOW);
        assert_eq!(enter(nobody, &syn(), LATER, false, false).outcome, FlowOutcome::Passed);
    }

    #[test]
    fn flows_of_a_backend_that_is_down_go_to_the_current_owner() {
        let decision = enter(moving(), &ack(1, 10), LATER, false, true);
        assert_eq!((decision.entry.backend(), decision.outcome), (B, FlowOutcome::Rerouted));
        assert_eq!(enter(moving(), &datagram(), LATER, false, true).outcome, FlowOutcome::Opened);
        assert_eq!(enter(moving(), &syn(), LATER, false, true).outcome, FlowOutcome::Opened);
        let entry = FlowEntry::new(A, FlowState::Open, NOW, Position::default());
        for (transport, state) in [(ack(1, 10), FlowState::Fin), (syn(), FlowState::Syn), (datagram(), FlowState::Open)]
        {
            let Decision { entry, outcome } = follow(entry, moving(), &transport, LATER, true);
            assert_eq!((entry.backend(), entry.state(), outcome), (B, state, FlowOutcome::Rerouted));
        }
    }

    #[test]
    fn a_connection_opens_and_closes() {
        let mut entry = enter(moving(), &syn(), NOW, false, false).entry;
        let segments = [
            syn(),
            ack(ISN.wrapping_add(1), 0),
            ack(ISN.wrapping_add(1), 1000),
            fin(ISN.wrapping_add(1001)),
            // Acknowledges what the backend still sends.
            ack(ISN.wrapping_add(1002), 0),
            fin(ISN.wrapping_add(1001)),
            rst(ISN.wrapping_add(1002)),
        ];
        let states = segments.map(|segment| {
            entry = follow(entry, moving(), &segment, LATER, false).entry;
            entry.state()
        });
        use FlowState::*;
        assert_eq!(states, [Syn, Open, Open, Fin, Fin, Fin, Rst]);
        let again = follow(entry, Slot::moving(A, B, NOW), &syn(), LATER, false);
        assert_eq!((again.entry.backend(), again.outcome), (A, FlowOutcome::Reopened));
        assert_eq!(again.entry.state(), Syn);
    }

    #[test]
    fn who_does_not_see_the_stream_cannot_end_its_entry() {
        let at = 1_000_000;
        for forged in [rst(0), rst(at - 5_000), rst(at + 5_000), fin(at + 100_000), fin(at - 100_000)] {
            assert_eq!(after(at, &[forged]), FlowState::Open, "{forged:?}");
        }
        // Data far ahead of the stream does not take the entry along to where a RST would then be believed.
        assert_eq!(after(at, &[ack(at + (1 << 30), 10), rst(at + (1 << 30) + 10)]), FlowState::Open);
        // Nor does a SYN on a flow that is under way move it.
        assert_eq!(after(at, &[syn()]), FlowState::Open);
    }

    #[test]
    fn an_end_that_was_not_one_is_forgotten() {
        let at = 1_000_000;
        assert_eq!(after(at, &[rst(at)]), FlowState::Rst);
        assert_eq!(after(at, &[rst(at), ack(at, 0)]), FlowState::Open);
        assert_eq!(after(at, &[fin(at), ack(at, 0)]), FlowState::Fin);
        assert_eq!(after(at, &[fin(at), ack(at, 1000)]), FlowState::Open);
        assert_eq!(after(at, &[ack(at, 3000), fin(at + 3000), ack(at, 1000)]), FlowState::Fin, "data sent again");
    }

    /// No table learns anything from a SYN with FIN or RST, whatever is there already.
    #[test]
    fn a_syn_that_contradicts_itself_neither_opens_nor_ends_a_connection() {
        for flags in [0x03, 0x06, 0x07, 0x13, 0x16] {
            let forged = segment(flags, ISN, 0);
            assert!(!forged.opens() && forged.contradicts());
            for always in [false, true] {
                let decision = enter(moving(), &forged, LATER, always, false);
                assert_eq!((decision.entry.backend(), decision.outcome), (A, FlowOutcome::Passed));
            }
            for state in FlowState::ALL {
                let entry = FlowEntry::new(B, state, NOW, Position::of(ISN));
                let decision = follow(entry, Slot::moving(A, B, NOW), &forged, LATER, false);
                assert_eq!((decision.entry, decision.outcome), (entry, FlowOutcome::Known), "{flags:#x} {state:?}");
                let decision = follow(entry, Slot::moving(A, B, NOW), &forged, LATER, true);
                assert_eq!((decision.entry, decision.outcome), (entry.of_backend(A), FlowOutcome::Rerouted));
            }
        }
        assert!(!segment(0x12, ISN, 0).contradicts() && !segment(0x12, ISN, 0).opens(), "SYN with ACK");
    }

    #[test]
    fn a_first_packet_is_not_enough_for_the_established_table() {
        assert!(!promotes(&syn()) && !promotes(&rst(1)));
        assert!(promotes(&ack(1, 0)) && promotes(&fin(1)) && promotes(&datagram()));
    }
}
