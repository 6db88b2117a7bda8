//! The pairing code: 7 random Crockford symbols (35 bits) and a check symbol, shown as `K7QF-3M9X`.
//!
//! The check symbol is the sum of a^i * s_i for i = 1..7 in GF(32) with x^5 + x^2 + 1 and a = 2. It finds
//! every single wrong symbol and every swap of two neighbours, before an attempt is burned.

use core::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::Random;
use crate::pairing::Prs;

/// Crockford's symbols: no I, L, O, U.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// How many symbols are random.
const SECRET_LEN: usize = 7;

/// Why a text is not a pairing code. All of these are found without burning an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CodeError {
    /// No code uses this symbol.
    UnknownSymbol {
        /// Which symbol it is, from 1, spaces and hyphens not counted.
        position: usize,
    },
    /// A code has 8 symbols.
    WrongLength {
        /// How many there are.
        symbols: usize,
    },
    /// The symbols do not fit together: at least one was mistyped.
    CheckSymbol,
    /// Not `CLAWGATE:1:<device>:<code>`.
    NotOurQr,
}

impl fmt::Display for CodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownSymbol { position } => {
                write!(
                    f,
                    "symbol {position} is not used in pairing codes; they have digits and letters without I, L, O, U"
                )
            }
            Self::WrongLength { symbols } => write!(f, "a pairing code has 8 symbols, this has {symbols}"),
            Self::CheckSymbol => f.write_str("mistyped: the check symbol does not fit; look at the code again"),
            Self::NotOurQr => f.write_str("not a clawgate QR text (CLAWGATE:1:<device>:<code>)"),
        }
    }
}

impl core::error::Error for CodeError {}

/// A pairing code. Debug does not show it; Display does, for the one moment it is shown to a person.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Code {
    /// Values 0 to 31.
    symbols: [u8; SECRET_LEN],
}

impl Code {
    /// A new code from the random source.
    pub fn random(random: &mut dyn Random) -> Self {
        let mut symbols = [0; SECRET_LEN];
        random.fill(&mut symbols);
        symbols = symbols.map(|symbol| symbol & 31);
        Self { symbols }
    }

    /// Reads what a person typed: any case; spaces and hyphens are ignored; O is 0, I and L are 1.
    ///
    /// # Errors
    /// `UnknownSymbol`, `WrongLength`, `CheckSymbol`.
    pub fn parse(text: &str) -> Result<Self, CodeError> {
        let mut symbols = [0; SECRET_LEN];
        let mut check = 0;
        let mut count: usize = 0;
        for letter in text.chars().filter(|letter| !letter.is_whitespace() && *letter != '-') {
            count = count.saturating_add(1);
            let value = value_of(letter).ok_or(CodeError::UnknownSymbol { position: count })?;
            match symbols.get_mut(count.saturating_sub(1)) {
                Some(symbol) => *symbol = value,
                None => check = value,
            }
        }
        if count != SECRET_LEN.saturating_add(1) {
            return Err(CodeError::WrongLength { symbols: count });
        }
        if check != check_symbol(&symbols) {
            return Err(CodeError::CheckSymbol);
        }
        Ok(Self { symbols })
    }

    /// Reads the text of a QR code: the device it names, if any, and the code.
    ///
    /// # Errors
    /// `NotOurQr`, and as [`Code::parse`].
    pub fn parse_qr(text: &str) -> Result<(Option<&str>, Self), CodeError> {
        let rest = text.strip_prefix("CLAWGATE:1:").ok_or(CodeError::NotOurQr)?;
        let (device, code) = rest.rsplit_once(':').ok_or(CodeError::NotOurQr)?;
        Ok((Some(device).filter(|device| !device.is_empty()), Self::parse(code)?))
    }

    /// The text of its QR code.
    #[must_use]
    pub fn qr<'a>(&'a self, device: Option<&'a str>) -> impl fmt::Display + use<'a> {
        Qr { code: self, device }
    }

    /// The password for the PAKE.
    #[must_use]
    pub fn prs(&self) -> Prs {
        self.symbols.map(letter_of)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let check = check_symbol(&self.symbols);
        for (at, symbol) in self.symbols.iter().chain([&check]).enumerate() {
            let hyphen = if at == 4 { "-" } else { "" };
            write!(f, "{hyphen}{}", char::from(letter_of(*symbol)))?;
        }
        Ok(())
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Code(..)")
    }
}

struct Qr<'a> {
    code: &'a Code,
    device: Option<&'a str>,
}

impl fmt::Display for Qr<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CLAWGATE:1:{}:{}", self.device.unwrap_or_default(), self.code)
    }
}

fn letter_of(value: u8) -> u8 {
    ALPHABET.get(usize::from(value)).copied().unwrap_or(b'0')
}

fn value_of(letter: char) -> Option<u8> {
    let upper = match letter.to_ascii_uppercase() {
        'O' => b'0',
        'I' | 'L' => b'1',
        other => u8::try_from(other).ok()?,
    };
    ALPHABET.iter().position(|symbol| *symbol == upper).and_then(|at| u8::try_from(at).ok())
}

/// Horner from the last symbol: ((s_7 * a + s_6) * a + ...) * a.
fn check_symbol(symbols: &[u8]) -> u8 {
    symbols.iter().rev().fold(0, |sum, symbol| times_a(sum ^ symbol))
}

/// Multiplies by a = 2 in GF(32), x^5 = x^2 + 1.
const fn times_a(value: u8) -> u8 {
    let doubled = value << 1;
    if doubled & 0x20 == 0 { doubled } else { (doubled ^ 0x25) & 0x1f }
}

#[cfg(test)]
mod tests {
    use std::format;
    use std::string::{String, ToString};

    use super::*;

    struct Counting(u8);

    impl Random for Counting {
        fn fill(&mut self, bytes: &mut [u8]) {
            for byte in bytes {
                self.0 = self.0.wrapping_mul(5).wrapping_add(37);
                *byte = self.0;
            }
        }
    }

    #[test]
    fn a_code_is_read_as_people_write_it() {
        let code = Code::random(&mut Counting(3));
        let shown = code.to_string();
        assert_eq!((shown.len(), shown.as_bytes()[4]), (9, b'-'));
        for typed in
            [shown.clone(), shown.to_lowercase(), shown.replace('-', ""), format!(" {} ", shown.replace('-', " "))]
        {
            assert_eq!(Code::parse(&typed), Ok(code.clone()), "{typed}");
        }
        // Zeros and ones as people take them.
        let mut zeros = Counting(0);
        let with_both = (0..200).map(|_| Code::random(&mut zeros)).find(|code| {
            let text = code.to_string();
            text.contains('0') && text.contains('1')
        });
        let with_both = with_both.unwrap().to_string();
        assert!(Code::parse(&with_both.replace('0', "o").replace('1', "L")).is_ok());
        assert!(Code::parse(&with_both.replace('0', "O").replace('1', "i")).is_ok());
    }

    #[test]
    fn every_wrong_symbol_and_every_swap_is_found() {
        let shown = Code::random(&mut Counting(11)).to_string().replace('-', "");
        for at in 0..8 {
            for symbol in ALPHABET.iter().map(|symbol| char::from(*symbol)) {
                let mut typo: String = shown.clone();
                typo.replace_range(at..=at, symbol.encode_utf8(&mut [0; 4]));
                assert_eq!(Code::parse(&typo).is_ok(), typo == shown, "{typo}");
            }
        }
        for at in 0..7 {
            let mut letters: std::vec::Vec<char> = shown.chars().collect();
            letters.swap(at, at + 1);
            let swapped: String = letters.into_iter().collect();
            assert_eq!(Code::parse(&swapped).is_ok(), swapped == shown, "{swapped}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_code_is_said() {
        assert_eq!(Code::parse("K7QU-3M9B"), Err(CodeError::UnknownSymbol { position: 4 }));
        assert_eq!(Code::parse("K7QF-3M9"), Err(CodeError::WrongLength { symbols: 7 }));
        assert_eq!(Code::parse("K7QF-3M9BB"), Err(CodeError::WrongLength { symbols: 9 }));
        assert_eq!(Code::parse("K7QF-3M9C"), Err(CodeError::CheckSymbol));
        assert_eq!(Code::parse(""), Err(CodeError::WrongLength { symbols: 0 }));
        assert_eq!(Code::parse("\u{1b}[2J"), Err(CodeError::UnknownSymbol { position: 1 }));
    }

    #[test]
    fn a_qr_text_names_the_device_or_none() {
        let code = Code::parse("K7QF-3M9B").unwrap();
        let text = code.qr(None).to_string();
        assert_eq!(text, "CLAWGATE:1::K7QF-3M9B");
        assert_eq!(Code::parse_qr(&text), Ok((None, code.clone())));
        let named = code.qr(Some("th-kit")).to_string();
        assert_eq!(Code::parse_qr(&named), Ok((Some("th-kit"), code)));
        assert_eq!(Code::parse_qr("https://example.org"), Err(CodeError::NotOurQr));
    }

    #[test]
    fn debug_does_not_show_a_code() {
        assert_eq!(format!("{:?}", Code::parse("K7QF-3M9B")), "Ok(Code(..))");
    }
}
