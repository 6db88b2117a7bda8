//! The statements of one transaction.

use std::collections::HashMap;

use bytes::Bytes;
use rusqlite::{Transaction, params};

use crate::ids::{DeviceId, PairingId};
use crate::spool::entry::{Capture, Kind};
use crate::spool::parts::{ChunkRef, Entry};

/// The statements of one transaction.
pub(in crate::spool) struct Writer<'a> {
    transaction: &'a Transaction<'a>,
    lanes: &'a mut HashMap<PairingId, i64>,
    next_id: i64,
}

impl<'a> Writer<'a> {
    pub(super) fn new(transaction: &'a Transaction<'a>, lanes: &'a mut HashMap<PairingId, i64>, next_id: i64) -> Self {
        Self { transaction, lanes, next_id }
    }

    /// The id that the next row gets.
    pub(super) fn next_id(&self) -> i64 {
        self.next_id
    }

    fn lane(&mut self, pairing: PairingId) -> rusqlite::Result<i64> {
        if let Some(id) = self.lanes.get(&pairing) {
            return Ok(*id);
        }
        self.transaction.execute("INSERT INTO lane (pairing) VALUES (?1)", [pairing.0])?;
        let id = self.transaction.last_insert_rowid();
        self.lanes.insert(pairing, id);
        Ok(id)
    }

    /// Adds a row; its id.
    pub(in crate::spool) fn insert(
        &mut self,
        pairing: PairingId,
        (epoch, first_seq, last_seq): (u64, u64, u64),
        count: usize,
        body: &[u8],
    ) -> rusqlite::Result<i64> {
        let lane = self.lane(pairing)?;
        let id = self.next_id;
        self.next_id += 1;
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.transaction.prepare_cached("INSERT INTO chunk VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, ?7)")?.execute(
            params![id, lane, epoch.cast_signed(), first_seq.cast_signed(), last_seq.cast_signed(), count, body],
        )?;
        Ok(id)
    }

    /// Puts a gap record in the place of the row with its id.
    pub(in crate::spool) fn replace(&mut self, gap: &ChunkRef, body: &[u8]) -> rusqlite::Result<()> {
        self.transaction
            .prepare_cached(
                "UPDATE chunk SET epoch = ?2, first_seq = ?3, last_seq = ?4, count = 1, gap = 1, body = ?5 WHERE id = ?1",
            )?
            .execute(params![
                gap.id,
                gap.epoch.cast_signed(),
                gap.first_seq.cast_signed(),
                gap.last_seq.cast_signed(),
                body
            ])?;
        Ok(())
    }

    pub(in crate::spool) fn delete(&mut self, id: i64) -> rusqlite::Result<()> {
        self.transaction.prepare_cached("DELETE FROM chunk WHERE id = ?1")?.execute([id])?;
        Ok(())
    }

    pub(in crate::spool) fn mark(&mut self, pairing: PairingId, row: i64, done: u32) -> rusqlite::Result<()> {
        let lane = self.lane(pairing)?;
        self.transaction
            .prepare_cached("UPDATE lane SET mark_row = ?2, mark_done = ?3 WHERE id = ?1")?
            .execute(params![lane, row, done])?;
        Ok(())
    }

    pub(in crate::spool) fn epochs(&mut self, pairing: PairingId, epochs: &[(u64, u64)]) -> rusqlite::Result<()> {
        let lane = self.lane(pairing)?;
        let mut packed = Vec::with_capacity(epochs.len() * 16);
        for (epoch, next) in epochs {
            packed.extend_from_slice(&epoch.to_be_bytes());
            packed.extend_from_slice(&next.to_be_bytes());
        }
        self.transaction.prepare_cached("UPDATE lane SET epochs = ?2 WHERE id = ?1")?.execute(params![lane, packed])?;
        Ok(())
    }

    pub(in crate::spool) fn owner(&mut self, pairing: PairingId, device: &DeviceId) -> rusqlite::Result<()> {
        let lane = self.lane(pairing)?;
        self.transaction.execute("UPDATE lane SET device = ?2 WHERE id = ?1", params![lane, device.as_str()])?;
        Ok(())
    }

    pub(in crate::spool) fn add_dropped(&mut self, entries: u64) -> rusqlite::Result<()> {
        self.transaction.execute("UPDATE meta SET dropped = dropped + ?1", [entries.cast_signed()])?;
        Ok(())
    }

    pub(in crate::spool) fn bury(
        &mut self,
        pairing: PairingId,
        entry: &Entry,
        reason: &str,
        at_unix_ms: u64,
    ) -> rusqlite::Result<()> {
        let lane = self.lane(pairing)?;
        let gap_to = match entry.kind {
            Kind::Telemetry => None,
            Kind::Gap { to } => Some(to.cast_signed()),
        };
        self.transaction
            .prepare_cached("INSERT OR REPLACE INTO dead_letter VALUES (NULL, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?
            .execute(params![
                lane,
                entry.epoch.cast_signed(),
                entry.seq.cast_signed(),
                gap_to,
                entry.captured == Capture::Mapped,
                entry.content.as_ref(),
                reason,
                at_unix_ms.cast_signed()
            ])?;
        Ok(())
    }

    /// Keeps the newest `keep` dead letters; how many went.
    pub(in crate::spool) fn trim_dead_letters(&mut self, keep: u64) -> rusqlite::Result<u64> {
        let trimmed = self.transaction.execute(
            "DELETE FROM dead_letter WHERE id <= (SELECT id FROM dead_letter ORDER BY id DESC LIMIT 1 OFFSET ?1)",
            [keep.cast_signed()],
        )?;
        Ok(trimmed as u64)
    }

    pub(in crate::spool) fn count_dead_letters(&mut self) -> rusqlite::Result<u64> {
        let count: i64 = self.transaction.query_row("SELECT count(*) FROM dead_letter", [], |row| row.get(0))?;
        Ok(count.unsigned_abs())
    }

    /// The dead letters of one pairing, oldest first.
    pub(in crate::spool) fn dead_letters_of(&mut self, pairing: PairingId) -> rusqlite::Result<Vec<Entry>> {
        let lane = self.lane(pairing)?;
        let mut statement = self
            .transaction
            .prepare("SELECT epoch, seq, gap_to, mapped, content FROM dead_letter WHERE lane = ?1 ORDER BY id")?;
        let rows = statement.query_map([lane], |row| {
            let gap_to: Option<i64> = row.get(2)?;
            let kind = gap_to.map_or(Kind::Telemetry, |to| Kind::Gap { to: to.cast_unsigned() });
            let captured = if row.get(3)? { Capture::Mapped } else { Capture::Exact };
            let content = Bytes::from(row.get::<_, Vec<u8>>(4)?);
            let (epoch, seq) = (row.get::<_, i64>(0)?.cast_unsigned(), row.get::<_, i64>(1)?.cast_unsigned());
            Ok(Entry::from_disk(0, epoch, seq, kind, captured, content))
        })?;
        rows.collect()
    }

    /// Forgets the dead letters of one pairing; how many there were.
    pub(in crate::spool) fn drop_dead_letters(&mut self, pairing: PairingId) -> rusqlite::Result<u64> {
        let lane = self.lane(pairing)?;
        let dropped = self.transaction.execute("DELETE FROM dead_letter WHERE lane = ?1", [lane])?;
        Ok(dropped as u64)
    }

    /// Deletes a lane with all that is under it.
    pub(in crate::spool) fn remove_lane(&mut self, pairing: PairingId) -> rusqlite::Result<()> {
        let lane = self.lane(pairing)?;
        for statement in [
            "DELETE FROM chunk WHERE lane = ?1",
            "DELETE FROM dead_letter WHERE lane = ?1",
            "DELETE FROM lane WHERE id = ?1",
        ] {
            self.transaction.execute(statement, [lane])?;
        }
        self.lanes.remove(&pairing);
        Ok(())
    }
}
