//! The relay's end of a lane: what is handed out, what the broker did with it, how much may be repeated after a kill.

use super::Queue;
use crate::ids::ReadingId;
use crate::spool::entry::{Outgoing, Ticket};
use crate::spool::parts::State;

impl Queue {
    /// Whether [`take_into`](Self::take_into) is worth while now: it yields all that waits, or half of what may be in flight.
    /// Otherwise every single confirmation would be answered with a single message.
    pub(in crate::spool) fn is_ready(&mut self) -> bool {
        self.served = true;
        self.pull_fresh();
        let waiting = self.window.len().saturating_sub(self.index(self.taken));
        let enough = waiting.min(self.limits.in_flight.saturating_sub(self.ahead) / 2).max(1);
        self.allowance() >= enough && self.has_queued()
    }

    /// Hands out entries in order, at most `max`, up to the in-flight bound. In a flood it runs every few readings, so the
    /// caller keeps the memory.
    pub(in crate::spool) fn take_into(&mut self, max: usize, out: &mut Vec<Outgoing>) {
        self.served = true;
        self.pull_fresh();
        let mut allowance = self.allowance().min(max);
        let mut index = self.index(self.taken);
        while allowance > 0 {
            let Some(entry) = self.window.get_mut(index) else { break };
            if entry.state == State::Queued {
                entry.state = State::InFlight;
                self.in_flight += 1;
                allowance -= 1;
                out.push(Outgoing {
                    ticket: Ticket { pos: self.front + index as u64, round: self.round },
                    id: ReadingId { pairing: self.pairing, epoch: entry.epoch, seq: entry.seq },
                    kind: entry.kind,
                    content: entry.content.clone(),
                    captured: entry.captured,
                });
            }
            index += 1;
        }
        self.taken = self.front + index as u64;
    }

    /// The broker has it for good. `false` if the ticket is of an earlier connection.
    pub(in crate::spool) fn confirm(&mut self, ticket: Ticket) -> bool {
        if !self.settle(ticket, State::Done) {
            return false;
        }
        self.pop_done();
        true
    }

    /// The broker will never take it. It leaves once the reason stands on disk.
    pub(in crate::spool) fn dead_letter(&mut self, ticket: Ticket, reason: String) -> bool {
        if !self.settle(ticket, State::Dying) {
            return false;
        }
        self.dying.push((ticket.pos, reason));
        true
    }

    /// The connection is gone: everything in flight is queued again, in order.
    pub(in crate::spool) fn requeue(&mut self) {
        for entry in &mut self.window {
            if entry.state == State::InFlight {
                entry.state = State::Queued;
            }
        }
        self.in_flight = 0;
        self.taken = self.front;
        self.round = self.round.wrapping_add(1);
        self.served = false;
    }

    fn has_queued(&self) -> bool {
        self.window.iter().skip(self.index(self.taken)).any(|entry| entry.state == State::Queued)
    }

    /// How many may be handed out: what is in flight, what is settled but not recorded, what was confirmed while it was
    /// written, and what was confirmed behind one that was not (a restart would publish each again), together stay within
    /// the bound.
    fn allowance(&self) -> usize {
        self.limits.in_flight.saturating_sub(self.in_flight + self.settled.unrecorded + self.through + self.ahead)
    }

    fn settle(&mut self, ticket: Ticket, state: State) -> bool {
        if ticket.round != self.round || ticket.pos < self.front {
            return false;
        }
        let index = self.index(ticket.pos);
        let Some(entry) = self.window.get_mut(index).filter(|entry| entry.state == State::InFlight) else {
            return false;
        };
        entry.state = state;
        self.in_flight -= 1;
        if state == State::Done {
            self.ahead += 1;
            if entry.row == 0 {
                self.unsafe_bytes -= entry.charge();
            }
        }
        true
    }
}
