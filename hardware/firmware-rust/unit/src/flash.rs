//! The sensor's state in two pages of flash: a power cut at any moment leaves the old block or the new one.
//!
//! A page is a header and the block. The header (`CGW1`, a counter, 8 bytes of SHA-512 over counter and block)
//! is written last, so a page without one was not finished. Once a new block is proven by reading it back, the
//! other page is erased: keys that were replaced do not stay in flash.

use core::fmt;

use clawgate_protocol::sensor::{STATE_LEN, StorageFailed};
use sha2::{Digest, Sha512};
use zeroize::Zeroizing;

/// What a page must hold at least.
pub const PAGE_LEN: usize = HEADER + STATE_LEN;

const HEADER: usize = MAGIC.len() + 4 + CHECK;
const MAGIC: [u8; 4] = *b"CGW1";
const CHECK: usize = 8;
/// How much is read at a time.
const CHUNK: usize = 32;
/// How erased flash reads.
const ERASED: u8 = 0xff;

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// The one at the lower address.
    First,
    /// The one behind it.
    Second,
}

impl Page {
    const BOTH: [Self; 2] = [Self::First, Self::Second];

    const fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }
}

/// The flash did not do what it was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageFailed;

impl fmt::Display for PageFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the flash does not answer: the unit is defective")
    }
}

impl core::error::Error for PageFailed {}

/// Two pages of flash, each of at least [`PAGE_LEN`] bytes. `erase` makes every bit one, `write` makes bits zero.
pub trait Pages {
    /// Reads from `at` on.
    ///
    /// # Errors
    /// [`PageFailed`].
    fn read(&mut self, page: Page, at: usize, out: &mut [u8]) -> Result<(), PageFailed>;

    /// Erases the page.
    ///
    /// # Errors
    /// [`PageFailed`].
    fn erase(&mut self, page: Page) -> Result<(), PageFailed>;

    /// Writes to erased flash from `at` on.
    ///
    /// # Errors
    /// [`PageFailed`].
    fn write(&mut self, page: Page, at: usize, bytes: &[u8]) -> Result<(), PageFailed>;
}

/// What was found at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing was ever finished here.
    Nothing,
    /// The block that was saved last.
    Block,
    /// Something was finished here, and is not whole any more. Never start empty over it: a person resets the unit.
    Damaged,
}

/// The two pages, and which one counts.
#[derive(Debug)]
pub struct TwoPages<P> {
    pages: P,
    newest: Option<(Page, u32)>,
}

/// What one page holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    Unfinished,
    Whole(u32),
    Damaged,
}

impl<P: Pages> TwoPages<P> {
    /// Looks at both pages; the newest whole block goes into `block`.
    ///
    /// # Errors
    /// [`PageFailed`].
    pub fn open(pages: P, block: &mut [u8; STATE_LEN]) -> Result<(Self, Found), PageFailed> {
        let mut found = Self { pages, newest: None };
        let mut damaged = false;
        for page in Page::BOTH {
            match found.look(page)? {
                Content::Unfinished => (),
                Content::Damaged => damaged = true,
                Content::Whole(counter) => {
                    if found.newest.is_none_or(|(_, newest)| counter > newest) {
                        found.newest = Some((page, counter));
                    }
                }
            }
        }
        let Some((page, _)) = found.newest else {
            return Ok((found, if damaged { Found::Damaged } else { Found::Nothing }));
        };
        found.pages.read(page, HEADER, block)?;
        found.wipe(page.other())?;
        Ok((found, Found::Block))
    }

    /// Replaces the block.
    ///
    /// # Errors
    /// [`StorageFailed`]: the old block stays.
    pub fn save(&mut self, block: &[u8; STATE_LEN]) -> Result<(), StorageFailed> {
        let (page, counter) = match self.newest {
            None => (Page::First, 1),
            Some((page, counter)) => (page.other(), counter.saturating_add(1)),
        };
        self.put(page, counter, block).map_err(|PageFailed| StorageFailed)?;
        self.newest = Some((page, counter));
        // The new block counts from here on. If the old one cannot be erased now, the next start tries again.
        let _ = self.wipe(page.other());
        Ok(())
    }

    fn put(&mut self, page: Page, counter: u32, block: &[u8; STATE_LEN]) -> Result<(), PageFailed> {
        self.wipe(page)?;
        let counter_bytes = counter.to_be_bytes();
        let check = Sha512::new().chain_update(counter_bytes).chain_update(block).finalize();
        let mut header = [0; HEADER];
        let parts = MAGIC.iter().chain(&counter_bytes).chain(&check);
        header.iter_mut().zip(parts).for_each(|(to, from)| *to = *from);
        self.pages.write(page, HEADER, block)?;
        self.pages.write(page, 0, &header)?;
        if self.look(page)? == Content::Whole(counter) { Ok(()) } else { Err(PageFailed) }
    }

    fn look(&mut self, page: Page) -> Result<Content, PageFailed> {
        let mut header = [0; HEADER];
        self.pages.read(page, 0, &mut header)?;
        if header.iter().all(|byte| *byte == ERASED) {
            return Ok(Content::Unfinished);
        }
        let (head, check) = header.split_at(MAGIC.len().saturating_add(4));
        let (magic, counter) = head.split_at(MAGIC.len());
        let mut hash = Sha512::new().chain_update(counter);
        self.chunks(page, HEADER, |chunk| hash.update(chunk))?;
        let whole = magic == MAGIC && hash.finalize().starts_with(check);
        let counter = counter.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
        Ok(if whole { Content::Whole(counter) } else { Content::Damaged })
    }

    /// Erases a page, unless it is erased.
    fn wipe(&mut self, page: Page) -> Result<(), PageFailed> {
        let mut erased = true;
        self.chunks(page, 0, |chunk| erased &= chunk.iter().all(|byte| *byte == ERASED))?;
        if erased { Ok(()) } else { self.pages.erase(page) }
    }

    fn chunks(&mut self, page: Page, from: usize, mut each: impl FnMut(&[u8])) -> Result<(), PageFailed> {
        let mut buffer = Zeroizing::new([0; CHUNK]);
        let mut at = from;
        while at < PAGE_LEN {
            let len = PAGE_LEN.saturating_sub(at).min(CHUNK);
            let chunk = buffer.get_mut(..len).ok_or(PageFailed)?;
            self.pages.read(page, at, chunk)?;
            each(chunk);
            at = at.saturating_add(len);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;
    use std::vec;
    use std::vec::Vec;

    use super::*;

    /// Flash that loses power after so many bytes were written or erased.
    #[derive(Clone, Default)]
    struct Flash {
        pages: Rc<RefCell<[Vec<u8>; 2]>>,
        left: Option<usize>,
    }

    impl Flash {
        fn new() -> Self {
            let page = vec![ERASED; PAGE_LEN];
            Self { pages: Rc::new(RefCell::new([page.clone(), page])), left: None }
        }

        fn with_power_for(&self, bytes: usize) -> Self {
            let pages = Rc::new(RefCell::new(self.pages.borrow().clone()));
            Self { pages, left: Some(bytes) }
        }

        fn change(&mut self, page: Page, at: usize, bytes: impl Iterator<Item = u8>) -> Result<(), PageFailed> {
            let mut pages = self.pages.borrow_mut();
            for (byte, new) in pages[page as usize][at..].iter_mut().zip(bytes) {
                if let Some(left) = &mut self.left {
                    *left = left.checked_sub(1).ok_or(PageFailed)?;
                }
                *byte = new;
            }
            Ok(())
        }

        fn found(&self) -> (Found, u8) {
            let mut block = [0; STATE_LEN];
            let pages = Self { pages: Rc::clone(&self.pages), left: None };
            let (_, found) = TwoPages::open(pages, &mut block).unwrap();
            (found, block[0])
        }
    }

    impl Pages for Flash {
        fn read(&mut self, page: Page, at: usize, out: &mut [u8]) -> Result<(), PageFailed> {
            out.copy_from_slice(&self.pages.borrow()[page as usize][at..at + out.len()]);
            Ok(())
        }

        fn erase(&mut self, page: Page) -> Result<(), PageFailed> {
            self.change(page, 0, vec![ERASED; PAGE_LEN].into_iter())
        }

        fn write(&mut self, page: Page, at: usize, bytes: &[u8]) -> Result<(), PageFailed> {
            let old = self.pages.borrow()[page as usize][at..at + bytes.len()].to_vec();
            self.change(page, at, old.into_iter().zip(bytes.to_vec()).map(|(old, new)| old & new))
        }
    }

    fn open(flash: &Flash) -> TwoPages<Flash> {
        TwoPages::open(flash.clone(), &mut [0; STATE_LEN]).unwrap().0
    }

    #[test]
    fn a_power_cut_at_any_byte_leaves_the_old_block_or_the_new_one() {
        for saved in [1, 2, 3] {
            let flash = Flash::new();
            let mut store = open(&flash);
            (1..=saved).for_each(|block| store.save(&[block; STATE_LEN]).unwrap());
            let mut seen = Vec::new();
            for cut in 0..2 * PAGE_LEN + 10 {
                let cut_flash = flash.with_power_for(cut);
                let done = open(&cut_flash).save(&[saved + 1; STATE_LEN]).is_ok();
                let (found, block) = cut_flash.found();
                assert_eq!(found, Found::Block, "cut after {cut} bytes");
                assert!(block == saved + 1 || !done && block == saved, "cut after {cut} bytes: {block}");
                assert_eq!(cut_flash.found(), (found, block), "and again after the next start");
                seen.push(block);
            }
            assert!(seen.contains(&saved) && seen.contains(&(saved + 1)));
        }
    }

    #[test]
    fn the_first_write_of_all_may_be_cut_before_its_header_and_nothing_is_lost() {
        for cut in 0..STATE_LEN {
            let flash = Flash::new().with_power_for(cut);
            assert!(open(&flash).save(&[7; STATE_LEN]).is_err());
            assert_eq!(flash.found().0, Found::Nothing, "cut after {cut} bytes");
        }
    }

    #[test]
    fn keys_that_were_replaced_do_not_stay_in_flash() {
        let flash = Flash::new();
        let mut store = open(&flash);
        store.save(&[0x5a; STATE_LEN]).unwrap();
        store.save(&[0; STATE_LEN]).unwrap();
        assert!(!flash.pages.borrow().iter().flatten().any(|byte| *byte == 0x5a));
    }

    #[test]
    fn damage_is_seen_wherever_it_is_and_never_taken_for_a_new_unit() {
        let flash = Flash::new();
        open(&flash).save(&[1; STATE_LEN]).unwrap();
        for at in 0..PAGE_LEN {
            let damaged = flash.with_power_for(0);
            damaged.pages.borrow_mut()[0][at] ^= 0x10;
            assert_eq!(damaged.found().0, Found::Damaged, "byte {at}");
        }
    }

    #[test]
    fn flash_that_does_not_keep_what_is_written_is_told() {
        struct Stuck(Flash);
        impl Pages for Stuck {
            fn read(&mut self, page: Page, at: usize, out: &mut [u8]) -> Result<(), PageFailed> {
                self.0.read(page, at, out)
            }
            fn erase(&mut self, page: Page) -> Result<(), PageFailed> {
                self.0.erase(page)
            }
            fn write(&mut self, page: Page, at: usize, bytes: &[u8]) -> Result<(), PageFailed> {
                self.0.write(page, at, &bytes.iter().map(|byte| byte & 0xfe).collect::<Vec<_>>())
            }
        }
        let (mut store, _) = TwoPages::open(Stuck(Flash::new()), &mut [0; STATE_LEN]).unwrap();
        assert_eq!(store.save(&[1; STATE_LEN]), Err(StorageFailed));
    }
}
