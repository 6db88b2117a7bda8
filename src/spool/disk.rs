//! `spool.db`: opening it, refusing it, and writing to it in transactions that are true when they say so.

mod file;
mod writer;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior};

use super::entry::{DeadLetter, Kind};
use super::error::SpoolError;
use super::parts::ChunkRef;
use crate::ids::{DeviceId, PairingId, ReadingId};
use file::{classify, connect, create, damaged, inspect, settle};
pub(super) use writer::Writer;

/// An empty spool whose file is larger than this gives the space back.
const SHRINK_BYTES: u64 = 16 << 20;

/// What an earlier process left.
#[derive(Default)]
pub(super) struct Left {
    pub(super) lanes: Vec<FoundLane>,
    pub(super) dropped: u64,
    pub(super) dead_letters: u64,
}

/// One lane as the file knows it.
pub(super) struct FoundLane {
    pub(super) pairing: PairingId,
    pub(super) owner: Option<DeviceId>,
    pub(super) epochs: Vec<(u64, u64)>,
    pub(super) rows: Vec<ChunkRef>,
}

/// The database. Owned by the worker.
pub(super) struct Disk {
    path: PathBuf,
    connection: Option<Connection>,
    lanes: HashMap<PairingId, i64>,
    next_id: i64,
    /// A transaction failed after it may have reached the file: its rows, from this id on, do not count.
    uncertain: bool,
}

impl Disk {
    pub(super) fn open(path: &Path) -> Result<(Self, Left), SpoolError> {
        if !inspect(path)? {
            create(path)?;
        }
        settle(path)?;
        let connection = connect(path)?;
        let mut disk = Self {
            path: path.to_owned(),
            connection: Some(connection),
            lanes: HashMap::new(),
            next_id: 1,
            uncertain: false,
        };
        let left = disk.load().map_err(|error| classify(path, error))?;
        Ok((disk, left))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn load(&mut self) -> rusqlite::Result<Left> {
        let Some(connection) = &self.connection else { return Ok(Left::default()) };
        let figure = |query| connection.query_row(query, [], |row| row.get::<_, i64>(0)).map(i64::unsigned_abs);
        let mut left = Left {
            lanes: Vec::new(),
            dropped: figure("SELECT dropped FROM meta")?,
            dead_letters: figure("SELECT count(*) FROM dead_letter")?,
        };
        let mut by_id = HashMap::new();
        let mut marks = HashMap::new();
        let mut statement =
            connection.prepare("SELECT id, pairing, epochs, mark_row, mark_done, device FROM lane ORDER BY id")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let id: i64 = row.get(0)?;
            let pairing = PairingId(row.get(1)?);
            let epochs: Vec<u8> = row.get(2)?;
            let mark_row: i64 = row.get(3)?;
            marks.insert((id, mark_row), row.get::<_, u32>(4)?);
            // The marked row may be gone by now, the mark stays: no other row is ever to stand under its number.
            self.next_id = self.next_id.max(mark_row.saturating_add(1));
            by_id.insert(id, left.lanes.len());
            self.lanes.insert(pairing, id);
            let owner = row.get::<_, Option<String>>(5)?.and_then(|device| device.parse().ok());
            left.lanes.push(FoundLane { pairing, owner, epochs: unpack_epochs(&epochs), rows: Vec::new() });
        }
        let mut statement = connection
            .prepare("SELECT id, lane, epoch, first_seq, last_seq, count, gap, length(body) FROM chunk ORDER BY id")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let id: i64 = row.get(0)?;
            self.next_id = self.next_id.max(id.saturating_add(1));
            let lane_id: i64 = row.get(1)?;
            let Some(lane) = by_id.get(&lane_id).and_then(|at| left.lanes.get_mut(*at)) else { continue };
            let count: u32 = row.get(5)?;
            // A row that is through is not there: such a mark is of what stood there before, as before a gap of the cap.
            let done = marks.get(&(lane_id, id)).copied().filter(|done| *done < count).unwrap_or(0);
            lane.rows.push(ChunkRef {
                id,
                epoch: row.get::<_, i64>(2)?.cast_unsigned(),
                first_seq: row.get::<_, i64>(3)?.cast_unsigned(),
                last_seq: row.get::<_, i64>(4)?.cast_unsigned(),
                count,
                done,
                gap: row.get(6)?,
                bytes: row.get(7)?,
            });
        }
        Ok(left)
    }

    /// One transaction. With `durable` it is fsynced before this returns; without, it survives the end of the
    /// process, not of the power. After an error nothing of it counts, and the file is opened anew.
    pub(super) fn write<T>(
        &mut self,
        durable: bool,
        work: impl FnOnce(&mut Writer<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, SpoolError> {
        self.reopen()?;
        let result = self.try_write(durable, work);
        result.map_err(|error| {
            // What the kernel holds after a failed fsync cannot be trusted: start from the file again.
            self.connection = None;
            self.lanes.clear();
            self.uncertain = true;
            classify(&self.path, error)
        })
    }

    fn try_write<T>(
        &mut self,
        durable: bool,
        work: impl FnOnce(&mut Writer<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let Some(connection) = &mut self.connection else { return Err(rusqlite::Error::InvalidQuery) };
        connection.pragma_update(None, "synchronous", if durable { "FULL" } else { "NORMAL" })?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if self.uncertain {
            transaction.execute("DELETE FROM chunk WHERE id >= ?1", [self.next_id])?;
        }
        let mut writer = Writer::new(&transaction, &mut self.lanes, self.next_id);
        let out = work(&mut writer)?;
        let next_id = writer.next_id();
        transaction.commit()?;
        self.next_id = next_id;
        self.uncertain = false;
        Ok(out)
    }

    fn reopen(&mut self) -> Result<(), SpoolError> {
        if self.connection.is_some() {
            return Ok(());
        }
        if !inspect(&self.path)? {
            return Err(damaged(&self.path, "the file was removed while it was in use"));
        }
        let connection = connect(&self.path)?;
        // Frames that a failed fsync lost may stand before those to come: empty the WAL first.
        let busy: i64 = connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
            .map_err(|error| classify(&self.path, error))?;
        if busy != 0 {
            return Err(SpoolError::InUse { path: self.path.clone() });
        }
        let mut lanes = HashMap::new();
        let found = (|| {
            let mut statement = connection.prepare("SELECT pairing, id FROM lane")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                lanes.insert(PairingId(row.get(0)?), row.get(1)?);
            }
            Ok(())
        })();
        found.map_err(|error| classify(&self.path, error))?;
        self.lanes = lanes;
        self.connection = Some(connection);
        Ok(())
    }

    /// The body of a row; `None` if it is not there.
    pub(super) fn read(&mut self, id: i64) -> Result<Option<Bytes>, SpoolError> {
        self.reopen()?;
        let Some(connection) = &self.connection else { return Err(SpoolError::Stopped) };
        let read = (|| {
            let mut statement = connection.prepare_cached("SELECT body FROM chunk WHERE id = ?1")?;
            statement.query_row([id], |row| row.get::<_, Vec<u8>>(0)).optional()
        })();
        read.map(|body| body.map(Bytes::from)).map_err(|error| classify(&self.path, error))
    }

    /// The newest dead letters.
    pub(super) fn dead_letters(&mut self, limit: usize) -> Result<Vec<DeadLetter>, SpoolError> {
        self.reopen()?;
        let Some(connection) = &self.connection else { return Err(SpoolError::Stopped) };
        let read = (|| {
            let mut statement = connection.prepare_cached(
                "SELECT pairing, epoch, seq, gap_to, content, reason, at_unix_ms, device
                 FROM dead_letter JOIN lane ON lane.id = dead_letter.lane ORDER BY dead_letter.id DESC LIMIT ?1",
            )?;
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let rows = statement.query_map([limit], |row| {
                let gap_to: Option<i64> = row.get(3)?;
                Ok(DeadLetter {
                    id: ReadingId {
                        pairing: PairingId(row.get(0)?),
                        epoch: row.get::<_, i64>(1)?.cast_unsigned(),
                        seq: row.get::<_, i64>(2)?.cast_unsigned(),
                    },
                    device: row.get::<_, Option<String>>(7)?.and_then(|device| device.parse().ok()),
                    kind: gap_to.map_or(Kind::Telemetry, |to| Kind::Gap { to: to.cast_unsigned() }),
                    content: Bytes::from(row.get::<_, Vec<u8>>(4)?),
                    reason: row.get(5)?,
                    at_unix_ms: row.get::<_, i64>(6)?.unsigned_abs(),
                })
            })?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        })();
        read.map_err(|error| classify(&self.path, error))
    }

    /// Gives the space of an empty spool back to the file system.
    pub(super) fn shrink(&mut self) -> Result<(), SpoolError> {
        let Some(connection) = &self.connection else { return Ok(()) };
        if fs::metadata(&self.path).map_or(0, |meta| meta.len()) < SHRINK_BYTES {
            return Ok(());
        }
        connection
            .execute_batch("VACUUM; PRAGMA wal_checkpoint(TRUNCATE);")
            .map_err(|error| classify(&self.path, error))
    }
}

fn unpack_epochs(packed: &[u8]) -> Vec<(u64, u64)> {
    let (pairs, _) = packed.as_chunks::<16>();
    let word = |pair: &[u8; 16], at: usize| {
        pair.get(at..at + 8).and_then(|word| word.try_into().ok()).map_or(0, u64::from_be_bytes)
    };
    pairs.iter().map(|pair| (word(pair, 0), word(pair, 8))).collect()
}
