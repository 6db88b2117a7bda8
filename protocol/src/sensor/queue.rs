//! The readings a sensor still holds, in the memory its firmware gives: a ring of whole packs.

/// Length, 2 bytes; its top bit says that 8 bytes of uptime follow.
const LEN: usize = 2;
const WITH_UPTIME: u16 = 0x8000;
const UPTIME: usize = 8;
/// The longest pack whose length is told from a mark.
const MAX_PACK: usize = 0x7ffe;
/// In place of a length: the rest of the memory is unused, go on at the start.
const WRAP: u16 = 0xffff;

/// One held reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held<'q> {
    pub(super) pack: &'q [u8],
    pub(super) uptime_ms: Option<u64>,
}

/// Where a reading begins; good until that reading is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place(usize);

#[derive(Debug)]
pub(super) struct Queue<'a> {
    memory: &'a mut [u8],
    head: usize,
    tail: usize,
    count: usize,
}

impl<'a> Queue<'a> {
    pub(super) fn new(memory: &'a mut [u8]) -> Self {
        Self { memory, head: 0, tail: 0, count: 0 }
    }

    /// Gives the memory back; the queue is then of no use.
    pub(super) fn take_memory(&mut self) -> &'a mut [u8] {
        core::mem::take(&mut self.memory)
    }

    pub(super) const fn len(&self) -> usize {
        self.count
    }

    /// Puts a reading at the end, at the cost of the oldest ones if there is no room. Returns how many were
    /// dropped, or none if the reading is larger than the whole memory.
    pub(super) fn push(&mut self, pack: &[u8], uptime_ms: Option<u64>) -> Option<usize> {
        let size = LEN.saturating_add(if uptime_ms.is_some() { UPTIME } else { 0 }).saturating_add(pack.len());
        if size > self.memory.len() || pack.len() > MAX_PACK {
            return None;
        }
        let mut dropped: usize = 0;
        let at = loop {
            if let Some(at) = self.room(size) {
                break at;
            }
            self.pop();
            dropped = dropped.saturating_add(1);
        };
        if at == 0 && self.tail != 0 {
            let tail = self.tail;
            self.write(tail, &WRAP.to_be_bytes());
        }
        let flag = if uptime_ms.is_some() { WITH_UPTIME } else { 0 };
        let len = u16::try_from(pack.len()).unwrap_or(0) | flag;
        let mut at_byte = self.write(at, &len.to_be_bytes());
        if let Some(uptime) = uptime_ms {
            at_byte = self.write(at_byte, &uptime.to_be_bytes());
        }
        self.tail = self.write(at_byte, pack);
        self.count = self.count.saturating_add(1);
        Some(dropped)
    }

    /// Drops the oldest reading.
    pub(super) fn pop(&mut self) {
        if let Some((_, Place(next))) = self.read(Place(self.head)) {
            self.head = next;
            self.count = self.count.saturating_sub(1);
        }
        if self.count == 0 {
            (self.head, self.tail) = (0, 0);
        }
    }

    /// Where the reading at `index` (0 is the oldest) begins.
    pub(super) fn place(&self, index: usize) -> Place {
        let mut place = Place(self.head);
        for _ in 0..index.min(self.count) {
            let Some((_, next)) = self.read(place) else { break };
            place = next;
        }
        place
    }

    /// The reading at `place` and the place after it. The caller knows by the count whether there is one.
    pub(super) fn read(&self, place: Place) -> Option<(Held<'_>, Place)> {
        read(self.memory, place)
    }

    /// The `count` readings from `place` on.
    pub(super) fn run(&self, place: Place, count: usize) -> Run<'_> {
        Run { memory: self.memory, place, left: count }
    }

    /// Where `size` contiguous bytes are free.
    fn room(&self, size: usize) -> Option<usize> {
        let to_end = self.memory.len().saturating_sub(self.tail);
        match (self.count, self.tail > self.head) {
            (0, _) => Some(0),
            (_, true) if size <= to_end => Some(self.tail),
            // Strictly less: head and tail at one place means full, never empty, while there is a count.
            (_, true) => Some(0).filter(|_| size <= self.head),
            (_, false) => Some(self.tail).filter(|tail| size <= self.head.saturating_sub(*tail)),
        }
    }

    /// Writes what fits (the wrap mark may not fit, and need not) and returns the place after it.
    fn write(&mut self, at: usize, bytes: &[u8]) -> usize {
        let end = at.saturating_add(bytes.len());
        if let Some(room) = self.memory.get_mut(at..end) {
            room.copy_from_slice(bytes);
        }
        end
    }
}

/// Some readings one after the other.
#[derive(Debug, Clone)]
pub(super) struct Run<'q> {
    memory: &'q [u8],
    place: Place,
    left: usize,
}

impl Run<'_> {
    /// The place after what was given so far.
    pub(super) const fn place(&self) -> Place {
        self.place
    }
}

impl<'q> Iterator for Run<'q> {
    type Item = Held<'q>;

    fn next(&mut self) -> Option<Held<'q>> {
        self.left = self.left.checked_sub(1)?;
        let (held, next) = read(self.memory, self.place)?;
        self.place = next;
        Some(held)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Run<'_> {}

fn read(memory: &[u8], place: Place) -> Option<(Held<'_>, Place)> {
    let number = |at: usize| Some(u16::from_be_bytes(*memory.get(at..)?.first_chunk()?));
    let (at, len) = match number(place.0) {
        Some(len) if len != WRAP => (place.0, len),
        _ => (0, number(0)?),
    };
    let mut start = at.checked_add(LEN)?;
    let mut uptime_ms = None;
    if len & WITH_UPTIME != 0 {
        uptime_ms = Some(u64::from_be_bytes(*memory.get(start..)?.first_chunk()?));
        start = start.checked_add(UPTIME)?;
    }
    let end = start.checked_add(usize::from(len & !WITH_UPTIME))?;
    Some((Held { pack: memory.get(start..end)?, uptime_ms }, Place(end)))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_ring_holds_what_a_plain_list_would_hold(
            size in 12_usize..200,
            steps in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..60), any::<Option<u64>>(), 0..4_u8), 1..200),
        ) {
            let mut memory = vec![0; size];
            let mut queue = Queue::new(&mut memory);
            let mut model: VecDeque<(Vec<u8>, Option<u64>)> = VecDeque::new();
            for (pack, uptime, pops) in steps {
                match queue.push(&pack, uptime) {
                    Some(dropped) => {
                        prop_assert!(dropped <= model.len());
                        drop(model.drain(..dropped));
                        model.push_back((pack, uptime));
                    }
                    None => prop_assert!(pack.len() + 10 > size - 2),
                }
                for _ in 0..pops.saturating_sub(2) {
                    queue.pop();
                    model.pop_front();
                }
                prop_assert_eq!(queue.len(), model.len());
                let mut place = queue.place(0);
                for (index, (pack, uptime)) in model.iter().enumerate() {
                    prop_assert_eq!(queue.read(queue.place(index)), queue.read(place));
                    let (held, next) = queue.read(place).unwrap();
                    prop_assert_eq!((held.pack, held.uptime_ms), (&pack[..], *uptime));
                    place = next;
                }
            }
        }
    }

    #[test]
    fn the_oldest_readings_make_room() {
        let mut memory = [0; 32];
        let mut queue = Queue::new(&mut memory);
        assert_eq!(queue.push(&[1; 10], None), Some(0));
        assert_eq!(queue.push(&[2; 10], None), Some(0));
        assert_eq!(queue.push(&[3; 10], None), Some(1));
        assert_eq!(queue.read(queue.place(0)).unwrap().0.pack, [2; 10]);
        assert_eq!(queue.push(&[4; 40], None), None, "larger than the memory");
    }
}
