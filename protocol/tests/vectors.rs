//! The published vectors of CPace and Noise, every value of them; their origin stands in each file.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use chacha20poly1305::ChaCha20Poly1305;
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use clawgate_protocol::cpace::{self, Share, WeakShare};
use clawgate_protocol::noise::{self, Initiator, Known};
use serde_json::Value;
use sha2::{Digest, Sha512};

fn vectors(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn cpace_vectors() -> Value {
    vectors(include_str!("vectors/cpace-x25519-sha512.json"))
}

fn noise_vectors() -> Value {
    vectors(include_str!("vectors/noise-kkpsk0-25519-chachapoly-sha512.json"))
}

fn bytes(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap();
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn key(value: &Value) -> [u8; 32] {
    bytes(value).try_into().unwrap()
}

/// lv_cat of the draft; all values here are shorter than 128 bytes.
fn lv_cat(parts: &[&[u8]]) -> Vec<u8> {
    parts
        .iter()
        .flat_map(|part| std::iter::once(u8::try_from(part.len()).unwrap()).chain(part.iter().copied()))
        .collect()
}

#[test]
fn cpace_gives_the_published_generator_shares_and_keys() {
    let all = cpace_vectors();
    let v = &all["G_25519"];
    let (prs, ci, sid) = (bytes(&v["PRS"]), bytes(&v["CI"]), bytes(&v["sid"]));
    let (ya, yb) = (key(&v["ya"]), key(&v["yb"]));
    let (ada, adb) = (bytes(&v["ADa"]), bytes(&v["ADb"]));

    let g = cpace::generator(&prs, &[&ci], &[&sid]);
    assert_eq!(g, key(&v["g"]));
    let (share_a, share_b) = (cpace::share(&ya, &g).unwrap(), cpace::share(&yb, &g).unwrap());
    assert_eq!((share_a, share_b), (key(&v["Ya"]), key(&v["Yb"])));
    let k = cpace::shared_point(&ya, &share_b).unwrap();
    assert_eq!(*k, key(&v["K"]));
    assert_eq!(*cpace::shared_point(&yb, &share_a).unwrap(), *k);

    let (from_a, from_b) = (Share { point: &share_a, ad: &ada }, Share { point: &share_b, ad: &adb });
    assert_eq!(cpace::session_key(&[&sid], &k, from_a, from_b)[..], bytes(&v["ISK_IR"])[..]);
    assert_eq!(cpace::session_key(&[&sid[..5], &sid[5..]], &k, from_a, from_b)[..], bytes(&v["ISK_IR"])[..]);
}

#[test]
fn the_values_we_do_not_use_follow_from_the_ones_we_do() {
    // ISK_SY and the session id outputs of the vectors: the same shares in the draft's other transcript.
    let all = cpace_vectors();
    let v = &all["G_25519"];
    let (share_a, share_b, k) = (bytes(&v["Ya"]), bytes(&v["Yb"]), bytes(&v["K"]));
    let a = lv_cat(&[&share_a, &bytes(&v["ADa"])]);
    let b = lv_cat(&[&share_b, &bytes(&v["ADb"])]);
    let ordered = [b"oc".as_slice(), (&a).max(&b), (&a).min(&b)].concat();
    let straight = [a.as_slice(), &b].concat();
    let secret = lv_cat(&[b"CPace255_ISK", &bytes(&v["sid"]), &k]);
    assert_eq!(Sha512::digest([secret, ordered.clone()].concat())[..], bytes(&v["ISK_SY"])[..]);
    let output = |transcript: &[u8]| Sha512::digest([b"CPaceSidOutput".as_slice(), transcript].concat()).to_vec();
    assert_eq!(output(&straight), bytes(&v["sid_output_ir"]));
    assert_eq!(output(&ordered), bytes(&v["sid_output_oc"]));
}

#[test]
fn exactly_the_points_that_give_zero_abort() {
    let all = cpace_vectors();
    let points = all["X25519_points"].as_object().unwrap();
    assert_eq!(points.len(), 12);
    let secret = key(&all["G_25519"]["ya"]);
    for (name, point) in points {
        let aborts = ["Y0", "Y1", "Y2", "Y3", "Y4", "Y5", "Y7"].iter().any(|y| name.ends_with(y));
        let result = cpace::shared_point(&secret, &key(point));
        assert_eq!(result.err(), aborts.then_some(WeakShare), "{name}");
    }
}

#[test]
fn noise_gives_the_published_messages_in_both_roles() {
    let all = noise_vectors();
    let v = &all["vectors"][0];
    let messages: Vec<(Vec<u8>, Vec<u8>)> =
        v["messages"].as_array().unwrap().iter().map(|m| (bytes(&m["payload"]), bytes(&m["ciphertext"]))).collect();
    let (prologue, psk) = (bytes(&v["init_prologue"]), key(&v["init_psks"][0]));
    let (init_static, resp_static) = (key(&v["init_static"]), key(&v["resp_static"]));
    let (init_public, resp_public) = (key(&v["resp_remote_static"]), key(&v["init_remote_static"]));
    let gateway = Known { prologue: &prologue, psk: &psk, own_static: &init_static, peer_static: &resp_public };
    let sensor = Known { prologue: &prologue, psk: &psk, own_static: &resp_static, peer_static: &init_public };

    let mut first = vec![0; messages[0].1.len()];
    let initiator = Initiator::start(&gateway, &key(&v["init_ephemeral"]), &messages[0].0, &mut first).unwrap();
    assert_eq!(first, messages[0].1);

    let (mut payload, mut second) = (vec![0; messages[0].0.len()], vec![0; messages[1].1.len()]);
    let ephemeral = key(&v["resp_ephemeral"]);
    let theirs = noise::respond(&sensor, &ephemeral, &first, &mut payload, &messages[1].0, &mut second).unwrap();
    assert_eq!((&payload, &second), (&messages[0].0, &messages[1].1));

    let mut payload = vec![0; messages[1].0.len()];
    let ours = initiator.finish(&second, &mut payload).unwrap();
    assert_eq!(payload, messages[1].0);
    assert_eq!(ours.hash[..], bytes(&v["handshake_hash"])[..]);
    assert_eq!(theirs.hash, ours.hash);
    assert_eq!((theirs.send, theirs.receive), (ours.receive, ours.send));

    // Transport messages alternate, the gateway first; RFC 8439 with Noise's nonce.
    for (n, (payload, ciphertext)) in messages[2..].iter().enumerate() {
        let key = if n % 2 == 0 { &ours.send } else { &ours.receive };
        let mut nonce = [0; 12];
        nonce[4] = u8::try_from(n / 2).unwrap();
        let mut text = payload.clone();
        let tag = ChaCha20Poly1305::new(key.into())
            .encrypt_inout_detached(&nonce.into(), &[], text.as_mut_slice().into())
            .unwrap();
        text.extend_from_slice(&tag);
        assert_eq!(&text, ciphertext);
    }
}
