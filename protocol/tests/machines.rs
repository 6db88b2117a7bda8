//! The bodies of the fuzz targets for the machines, with random scripts on stable.

mod bodies;

use proptest::prelude::*;

fn script(len: usize) -> impl Strategy<Value = Vec<u8>> {
    // Mostly zeros, which let a message pass: otherwise no run would ever get far.
    proptest::collection::vec(prop_oneof![3 => Just(0), 1 => any::<u8>()], 0..len)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn no_attack_on_the_line_breaks_a_pairing(script in script(120)) {
        bodies::machines::pairing(&script);
    }

    #[test]
    fn no_attack_on_the_line_breaks_a_session(script in script(200)) {
        bodies::machines::session(&script);
    }

    #[test]
    fn no_message_breaks_the_sensor(script in script(2_000)) {
        bodies::machines::sensor(&script);
    }

    #[test]
    fn no_noise_breaks_the_sensor(script: Vec<u8>) {
        bodies::machines::sensor(&script);
    }
}

#[test]
fn without_an_attack_the_scripts_get_to_their_end() {
    for choice in [0, 1, 6, 7] {
        assert!(bodies::machines::pairing(&[choice]), "choice {choice}");
    }
    assert!(!bodies::machines::pairing(&[8]), "with different codes");
    // Connect, then three records from each end.
    let honest = [0, 0, 0, 0, 0, 1, 0, 0, 2, 0, 0, 1, 0, 0, 2, 0, 0, 1, 0, 0, 2, 0];
    assert_eq!(bodies::machines::session(&honest), 6);
}
