//! What the worker is asked for: a commit, the dead letters, the end of a lane.

use std::collections::HashMap;

use super::Worker;
use crate::ids::PairingId;
use crate::spool::chunk;
use crate::spool::entry::DeadLetter;
use crate::spool::error::SpoolError;
use crate::spool::lane::LaneCell;
use crate::spool::parts::ChunkRef;
use crate::spool::queue::Queue;
use crate::spool::shared::{Ask, lock};

impl Worker {
    pub(super) fn answer(&mut self, ask: Ask) {
        match ask {
            Ask::Commit { reply } => {
                let _ = reply.send(self.transact(true));
            }
            Ask::DeadLetters { limit, reply } => {
                let _ = reply.send(self.dead_letters(limit));
            }
            Ask::Replay { pairing, reply } => {
                let _ = reply.send(self.replay(pairing));
            }
            Ask::DropDead { pairing, reply } => {
                let _ = reply.send(self.drop_dead(pairing));
            }
            Ask::Purge { pairing, reply } => {
                let _ = reply.send(self.purge(pairing));
            }
        }
    }

    fn replay(&mut self, pairing: PairingId) -> Result<u64, SpoolError> {
        let pairings = self.of_same_device(pairing);
        let lanes = self.disk.write(true, |writer| {
            let mut lanes = Vec::new();
            for pairing in &pairings {
                let pairing = *pairing;
                let mut rows = Vec::new();
                for entry in writer.dead_letters_of(pairing)? {
                    let (epoch, first_seq, last_seq) = (entry.epoch, entry.seq, entry.last_seq());
                    let body = chunk::encode(epoch, first_seq, std::slice::from_ref(&entry));
                    let id = writer.insert(pairing, (epoch, first_seq, last_seq), 1, &body)?;
                    let bytes = u32::try_from(body.len()).unwrap_or(u32::MAX);
                    rows.push(ChunkRef { id, epoch, first_seq, last_seq, count: 1, done: 0, bytes, gap: false });
                }
                lanes.push((pairing, rows));
            }
            Ok(lanes)
        })?;
        for (pairing, rows) in lanes {
            let cell = lock(&self.shared.lanes).get(&pairing).cloned();
            if let Some(cell) = cell.filter(|_| !rows.is_empty()) {
                cell.advance(|queue| rows.into_iter().for_each(|row| queue.push_backlog(row)));
            }
        }
        // Only now, and by itself: rows of a transaction that failed do not count, though it may have reached the file.
        // A crash in between leaves both: they come twice under one name, and are not lost.
        self.forget_dead(&pairings)
    }

    fn drop_dead(&mut self, pairing: PairingId) -> Result<u64, SpoolError> {
        let pairings = self.of_same_device(pairing);
        self.forget_dead(&pairings)
    }

    fn forget_dead(&mut self, pairings: &[PairingId]) -> Result<u64, SpoolError> {
        let (dropped, left) = self.disk.write(true, |writer| {
            let mut dropped = 0;
            for pairing in pairings {
                dropped += writer.drop_dead_letters(*pairing)?;
            }
            Ok((dropped, writer.count_dead_letters()?))
        })?;
        self.shared.totals().dead_letters = left;
        Ok(dropped)
    }

    fn dead_letters(&mut self, limit: usize) -> Result<Vec<DeadLetter>, SpoolError> {
        let mut letters = self.disk.dead_letters(limit)?;
        // The file learns an owner late; who serves the lane now knows better.
        let owners: HashMap<_, _> = self
            .shared
            .all_lanes()
            .iter()
            .map(|cell| (cell.pairing, cell.with(|queue| queue.owner().cloned())))
            .collect();
        for letter in &mut letters {
            if let Some(Some(owner)) = owners.get(&letter.id.pairing) {
                letter.device = Some(owner.clone());
            }
        }
        Ok(letters)
    }

    /// This pairing, and earlier ones of the same device.
    fn of_same_device(&self, pairing: PairingId) -> Vec<PairingId> {
        let owner_of = |cell: &LaneCell| cell.with(|queue| queue.owner().cloned());
        let known = lock(&self.shared.lanes).get(&pairing).cloned();
        let owner = known.and_then(|cell| owner_of(&cell));
        let mut pairings = vec![pairing];
        if owner.is_some() {
            let others = self.shared.all_lanes().into_iter().filter(|cell| owner_of(cell) == owner);
            pairings.extend(others.map(|cell| cell.pairing).filter(|other| *other != pairing));
        }
        pairings
    }

    /// Forgets the lane of `pairing`, and those of earlier pairings of the same device.
    fn purge(&mut self, pairing: PairingId) -> Result<u64, SpoolError> {
        let pairings = self.of_same_device(pairing);
        let left = self.disk.write(true, |writer| {
            for pairing in &pairings {
                writer.remove_lane(*pairing)?;
            }
            writer.count_dead_letters()
        })?;
        self.shared.totals().dead_letters = left;
        let mut lost = 0;
        for pairing in pairings {
            let cell = {
                let mut lanes = lock(&self.shared.lanes);
                lock(&self.shared.gone).insert(pairing);
                lanes.remove(&pairing)
            };
            lost += cell.map_or(0, |cell| cell.advance(Queue::purge));
        }
        Ok(lost)
    }
}
