//! Elligator2: from 32 hashed bytes to the u-coordinate of a point on curve25519 (RFC 9380, section 6.7.2).
//!
//! No branch and no index depends on the input. Only bit 255 is cleared, as CPace asks for; where bit 254
//! makes the representative larger than (p-1)/2, r and p-r give the same u, so nothing is lost.

#[cfg(not(target_pointer_width = "64"))]
use fiat_crypto::curve25519_32 as fiat;
#[cfg(target_pointer_width = "64")]
use fiat_crypto::curve25519_64 as fiat;
use subtle::ConstantTimeEq;

/// The curve's coefficient A = 486662, little-endian.
const A: [u8; 32] = with_low_bytes([0x06, 0x6d, 0x07]);
const ONE: [u8; 32] = with_low_bytes([1, 0, 0]);

const fn with_low_bytes(low: [u8; 3]) -> [u8; 32] {
    let mut bytes = [0; 32];
    let [first, second, third] = low;
    (bytes[0], bytes[1], bytes[2]) = (first, second, third);
    bytes
}

/// p - 1, which is -1: what a non-square gives when raised to (p-1)/2.
const MINUS_ONE: [u8; 32] = {
    let mut bytes = [0xff; 32];
    (bytes[0], bytes[31]) = (0xec, 0x7f);
    bytes
};

/// An element of GF(2^255 - 19).
#[derive(Clone, Copy)]
struct Field(fiat::fiat_25519_tight_field_element);

impl Field {
    /// Reads 32 little-endian bytes; bit 255 is ignored, and the value is taken modulo p.
    fn from_bytes(bytes: &[u8; 32]) -> Self {
        let mut masked = *bytes;
        masked[31] &= 0x7f;
        let mut out = Self::zero();
        fiat::fiat_25519_from_bytes(&mut out.0, &masked);
        out
    }

    fn to_bytes(self) -> [u8; 32] {
        let mut out = [0; 32];
        fiat::fiat_25519_to_bytes(&mut out, &self.0);
        out
    }

    const fn zero() -> Self {
        Self(fiat::fiat_25519_tight_field_element([0; _]))
    }

    fn loose(self) -> fiat::fiat_25519_loose_field_element {
        let mut out = fiat::fiat_25519_loose_field_element([0; _]);
        fiat::fiat_25519_relax(&mut out, &self.0);
        out
    }

    fn plus(self, other: Self) -> Self {
        let mut sum = fiat::fiat_25519_loose_field_element([0; _]);
        fiat::fiat_25519_add(&mut sum, &self.0, &other.0);
        let mut out = Self::zero();
        fiat::fiat_25519_carry(&mut out.0, &sum);
        out
    }

    fn negated(self) -> Self {
        let mut opposite = fiat::fiat_25519_loose_field_element([0; _]);
        fiat::fiat_25519_opp(&mut opposite, &self.0);
        let mut out = Self::zero();
        fiat::fiat_25519_carry(&mut out.0, &opposite);
        out
    }

    fn times(self, other: Self) -> Self {
        let mut out = Self::zero();
        fiat::fiat_25519_carry_mul(&mut out.0, &self.loose(), &other.loose());
        out
    }

    /// Squared `n` times over: raised to 2^n.
    fn squared(self, n: u8) -> Self {
        let mut out = self;
        for _ in 0..n {
            let loose = out.loose();
            fiat::fiat_25519_carry_square(&mut out.0, &loose);
        }
        out
    }

    /// Raised to 2^252 - 3; both exponents below are short steps from it.
    fn pow_2_252_minus_3(self) -> Self {
        // powN: raised to 2^N - 1; half, most and all: N = 100, 200 and 250
        let pow2 = self.squared(1).times(self);
        let pow4 = pow2.squared(2).times(pow2);
        let pow5 = pow4.squared(1).times(self);
        let pow10 = pow5.squared(5).times(pow5);
        let pow20 = pow10.squared(10).times(pow10);
        let pow40 = pow20.squared(20).times(pow20);
        let pow50 = pow40.squared(10).times(pow10);
        let half = pow50.squared(50).times(pow50);
        let most = half.squared(100).times(half);
        let all = most.squared(50).times(pow50);
        all.squared(2).times(self)
    }

    /// 1/self, that is raised to p - 2 = 8 * (2^252 - 3) + 3.
    fn inverted(self) -> Self {
        self.pow_2_252_minus_3().squared(3).times(self.squared(1).times(self))
    }

    /// Whether this has no square root: raised to (p-1)/2 = 4 * (2^252 - 3) + 2 it is -1.
    fn is_non_square(self) -> subtle::Choice {
        let power = self.pow_2_252_minus_3().squared(2).times(self.squared(1));
        power.to_bytes().ct_eq(&MINUS_ONE)
    }

    /// `b` if `choice`, else `a`.
    fn select(a: Self, b: Self, choice: subtle::Choice) -> Self {
        let mut out = Self::zero();
        fiat::fiat_25519_selectznz(&mut out.0.0, choice.unwrap_u8(), &a.0.0, &b.0.0);
        out
    }
}

/// The u-coordinate that belongs to `representative`; its bit 255 is ignored.
#[must_use]
pub fn map(representative: &[u8; 32]) -> [u8; 32] {
    let (a, one) = (Field::from_bytes(&A), Field::from_bytes(&ONE));
    let r_squared = Field::from_bytes(representative).squared(1);
    // 1 + 2r^2 is never 0, since -1/2 is no square.
    let v = a.negated().times(one.plus(r_squared).plus(r_squared).inverted());
    let curve_at_v = v.times(v.times(v.plus(a)).plus(one));
    Field::select(v, v.plus(a).negated(), curve_at_v.is_non_square()).to_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// r^2 in big-number-free form: the same u must come from r and p - r.
    fn negative(r: &[u8; 32]) -> [u8; 32] {
        Field::from_bytes(r).negated().to_bytes()
    }

    /// `elligator2` masks two bits; folding r to p-r where bit 254 is set makes the two maps comparable.
    fn folded(r: &[u8; 32]) -> [u8; 32] {
        let canonical = Field::from_bytes(r).to_bytes();
        if canonical[31] & 0x40 == 0 { canonical } else { negative(&canonical) }
    }

    proptest! {
        #[test]
        fn the_map_agrees_with_another_implementation(r in any::<[u8; 32]>()) {
            prop_assert_eq!(map(&r), elligator2::from_representative(&folded(&r)));
        }

        #[test]
        fn a_representative_and_its_negative_give_the_same_point(r in any::<[u8; 32]>()) {
            prop_assert_eq!(map(&r), map(&negative(&r)));
        }

        #[test]
        fn an_inverse_times_its_element_is_one(r in any::<[u8; 32]>()) {
            let x = Field::from_bytes(&r);
            prop_assert_eq!(x.times(x.inverted()).to_bytes(), ONE);
        }
    }

    #[test]
    fn bit_255_alone_is_ignored() {
        let mut high = [0x55; 32];
        high[31] |= 0x80;
        let mut low = high;
        low[31] &= 0x7f;
        assert_eq!(map(&high), map(&low));
        low[31] ^= 0x40;
        assert_ne!(map(&high), map(&low));
    }
}
