//! Two pages of flash in a file, as the emulator has none that lasts: erasing sets all bits, writing only clears them.
//!
//! A product puts its flash driver here; what keeps the keys over a power cut is `clawgate_unit::flash`, above this.

use clawgate_unit::flash::{PAGE_LEN, Page, PageFailed, Pages};

use crate::semihosting::{CREATE, File, READ_WRITE};

/// As on most Cortex-M with flash of their own.
const SIZE: usize = 1024;
const ERASED: u8 = 0xff;
const CHUNK: usize = 32;

const _: () = assert!(PAGE_LEN <= SIZE);

/// The file; without it, nothing can be read or written.
pub struct FilePages(Option<File>);

impl FilePages {
    pub fn open() -> Self {
        let existing = File::open(c"flash.bin", READ_WRITE);
        let mut pages = Self(existing.or_else(|| File::open(c"flash.bin", CREATE)));
        // A new file, or one whose first start was cut: flash comes erased from the maker.
        let mut last = [0];
        if pages.read(Page::Second, SIZE - 1, &mut last).is_err() {
            let _ = pages.erase(Page::First).and_then(|()| pages.erase(Page::Second));
        }
        pages
    }

    fn at(&mut self, page: Page, at: usize) -> Result<&mut File, PageFailed> {
        let base = match page {
            Page::First => 0,
            Page::Second => SIZE,
        };
        let file = self.0.as_mut().ok_or(PageFailed)?;
        if at < SIZE && file.seek(base + at) { Ok(file) } else { Err(PageFailed) }
    }
}

impl Pages for FilePages {
    fn read(&mut self, page: Page, at: usize, out: &mut [u8]) -> Result<(), PageFailed> {
        let len = self.at(page, at)?.read(out);
        if len == out.len() { Ok(()) } else { Err(PageFailed) }
    }

    fn erase(&mut self, page: Page) -> Result<(), PageFailed> {
        let file = self.at(page, 0)?;
        let done = (0..SIZE / CHUNK).all(|_| file.write(&[ERASED; CHUNK]));
        if done { Ok(()) } else { Err(PageFailed) }
    }

    fn write(&mut self, page: Page, at: usize, bytes: &[u8]) -> Result<(), PageFailed> {
        let mut old = [0; CHUNK];
        for (index, chunk) in bytes.chunks(CHUNK).enumerate() {
            let at = at + index * CHUNK;
            let old = old.get_mut(..chunk.len()).ok_or(PageFailed)?;
            self.read(page, at, old)?;
            old.iter_mut().zip(chunk).for_each(|(old, new)| *old &= new);
            if !self.at(page, at)?.write(old) {
                return Err(PageFailed);
            }
        }
        Ok(())
    }
}
