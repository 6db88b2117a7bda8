//! ML-KEM-768 (FIPS 203) of suite 2; a build without the feature has no key to offer and takes none.

use zeroize::Zeroizing;

/// The length of an encapsulation key.
#[cfg(feature = "suite2")]
pub(crate) const EK_LEN: usize = 1184;
/// The length of a ciphertext.
#[cfg(feature = "suite2")]
pub(crate) const CT_LEN: usize = 1088;
/// Without the feature nothing is ever put into these.
#[cfg(not(feature = "suite2"))]
pub(crate) const EK_LEN: usize = 0;
/// Without the feature nothing is ever put into these.
#[cfg(not(feature = "suite2"))]
pub(crate) const CT_LEN: usize = 0;

/// A shared secret.
pub(crate) type Secret = Zeroizing<[u8; 32]>;

#[cfg(feature = "suite2")]
mod imp {
    use ml_kem::kem::{Decapsulate, KeyExport};
    use ml_kem::ml_kem_768::{Ciphertext, DecapsulationKey, EncapsulationKey};

    use super::{CT_LEN, EK_LEN, Secret};
    use zeroize::Zeroizing;

    /// The encapsulation key of a random seed.
    pub(crate) fn encapsulation_key(seed: &[u8; 64]) -> Option<[u8; EK_LEN]> {
        let key = DecapsulationKey::from_seed((*seed).into());
        key.encapsulation_key().to_bytes().as_slice().try_into().ok()
    }

    /// A fresh secret for the holder of `ek`, from 32 fresh random bytes; none if `ek` is not a valid key.
    pub(crate) fn encapsulate(ek: &[u8], random: &[u8; 32]) -> Option<([u8; CT_LEN], Secret)> {
        let ek = EncapsulationKey::new(ek.try_into().ok()?).ok()?;
        // The randomness comes from the caller's source, as all randomness of this crate does.
        let (ct, secret) = ek.encapsulate_deterministic(&(*random).into());
        Some((ct.as_slice().try_into().ok()?, Zeroizing::new(secret.into())))
    }

    /// The secret in `ct`; a wrong `ct` gives a secret nobody has, as FIPS 203 says.
    pub(crate) fn decapsulate(seed: &[u8; 64], ct: &[u8]) -> Option<Secret> {
        let ct: &Ciphertext = ct.try_into().ok()?;
        let key = DecapsulationKey::from_seed((*seed).into());
        Some(Zeroizing::new(key.decapsulate(ct).into()))
    }
}

#[cfg(not(feature = "suite2"))]
mod imp {
    use super::{CT_LEN, EK_LEN, Secret};

    pub(crate) fn encapsulation_key(_: &[u8; 64]) -> Option<[u8; EK_LEN]> {
        None
    }

    pub(crate) fn encapsulate(_: &[u8], _: &[u8; 32]) -> Option<([u8; CT_LEN], Secret)> {
        None
    }

    pub(crate) fn decapsulate(_: &[u8; 64], _: &[u8]) -> Option<Secret> {
        None
    }
}

pub(crate) use imp::{decapsulate, encapsulate, encapsulation_key};

#[cfg(all(test, feature = "suite2"))]
mod tests {
    use super::*;

    #[test]
    fn both_ends_get_one_secret() {
        let ek = encapsulation_key(&[7; 64]).unwrap();
        let (ct, ours) = encapsulate(&ek, &[9; 32]).unwrap();
        assert_eq!(decapsulate(&[7; 64], &ct).unwrap(), ours);
        assert_ne!(decapsulate(&[8; 64], &ct).unwrap(), ours);
    }

    #[test]
    fn a_key_or_ciphertext_of_another_form_is_refused() {
        assert!(encapsulate(&[0; 5], &[9; 32]).is_none());
        assert!(encapsulate(&[0xff; EK_LEN], &[9; 32]).is_none(), "coefficients above q");
        assert!(decapsulate(&[7; 64], &[0; CT_LEN - 1]).is_none());
    }
}
