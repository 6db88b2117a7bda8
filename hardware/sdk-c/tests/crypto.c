/* Published vectors: CPace from its draft, Noise from cacophony. */
#include <stdio.h>
#include <string.h>

#include "check.h"
#include "cpace.h"
#include "keccak.h"
#include "noise.h"

#define CPACE "protocol/tests/vectors/cpace-x25519-sha512.json"
#define NOISE "protocol/tests/vectors/noise-kkpsk0-25519-chachapoly-sha512.json"

static void the_generator_and_the_session_key_are_those_of_the_draft(void)
{
    blob prs = from_json(CPACE, "PRS", 0), ci = from_json(CPACE, "CI", 0), sid = from_json(CPACE, "sid", 0);
    blob ya = from_json(CPACE, "ya", 0), share_a = from_json(CPACE, "Ya", 0), ada = from_json(CPACE, "ADa", 0);
    blob yb = from_json(CPACE, "yb", 0), share_b = from_json(CPACE, "Yb", 0), adb = from_json(CPACE, "ADb", 0);
    blob g = from_json(CPACE, "g", 0), wanted_k = from_json(CPACE, "K", 0), wanted_isk = from_json(CPACE, "ISK_IR", 0);
    uint8_t generator[32], share[32], k[32], isk[64];
    crypto_sha512_ctx hash;

    claw_cpace_generator_begin(&hash, prs.bytes, prs.size);
    claw_hash_lv(&hash, ci.bytes, ci.size);
    claw_hash_lv(&hash, sid.bytes, sid.size);
    claw_cpace_generator_end(&hash, generator);
    CHECK_SAME(generator, 32, g);
    crypto_x25519(share, ya.bytes, generator);
    CHECK_SAME(share, 32, share_a);
    crypto_x25519(share, yb.bytes, generator);
    CHECK_SAME(share, 32, share_b);
    CHECK(claw_dh(k, ya.bytes, share_b.bytes));
    CHECK_SAME(k, 32, wanted_k);

    claw_cpace_isk_begin(&hash, sid.bytes, sid.size, k);
    claw_hash_lv(&hash, share_a.bytes, share_a.size);
    claw_hash_lv(&hash, ada.bytes, ada.size);
    claw_hash_lv(&hash, share_b.bytes, share_b.size);
    claw_hash_lv(&hash, adb.bytes, adb.size);
    crypto_sha512_final(&hash, isk);
    CHECK_SAME(isk, 64, wanted_isk);
}

static void the_weak_points_and_only_they_give_zero(void)
{
    blob scalar = from_json(CPACE, "ya", 0);
    for (int i = 0; i < 12; i++) {
        char name[32];
        uint8_t out[32];
        snprintf(name, sizeof name, "Invalid Y%d", i);
        blob point = from_json(CPACE, name, 0);
        bool weak = i <= 5 || i == 7;
        CHECK(claw_dh(out, scalar.bytes, point.bytes) == !weak);
    }
}

static void noise_answers_as_cacophony_does(void)
{
    blob prologue = from_json(NOISE, "resp_prologue", 0), secret = from_json(NOISE, "resp_static", 0);
    blob peer = from_json(NOISE, "resp_remote_static", 0), ephemeral = from_json(NOISE, "resp_ephemeral", 0);
    blob handshake = from_json(NOISE, "handshake_hash", 0);
    blob psk = from_hex("54686973206973206d7920417573747269616e20706572737065637469766521");
    blob text[4], sealed[4];
    uint8_t own[32], from_initiator[32], to_initiator[32], answer[128];
    crypto_sha512_ctx hash;
    claw_noise noise;
    for (int i = 0; i < 4; i++) {
        text[i] = from_json(NOISE, "payload", i);
        sealed[i] = from_json(NOISE, "ciphertext", i);
    }
    crypto_x25519_public_key(own, secret.bytes);
    claw_noise_keys keys = {secret.bytes, own, peer.bytes, psk.bytes};

    claw_noise_begin(&noise, &hash);
    crypto_sha512_update(&hash, prologue.bytes, prologue.size);
    claw_noise_statics(&noise, &hash, &keys);
    CHECK(claw_noise_take(&noise, &keys, sealed[0].bytes, sealed[0].size));
    CHECK_SAME(sealed[0].bytes + 32, text[0].size, text[0]);
    memcpy(answer + 32, text[1].bytes, text[1].size);
    CHECK(claw_noise_give(&noise, &keys, ephemeral.bytes, answer, 32 + text[1].size + 16));
    CHECK_SAME(answer, 32 + text[1].size + 16, sealed[1]);
    CHECK_SAME(noise.hash, 64, handshake);
    claw_noise_split(&noise, from_initiator, to_initiator);
    CHECK(claw_open(from_initiator, 0, NULL, 0, sealed[2].bytes, sealed[2].size));
    CHECK_SAME(sealed[2].bytes, text[2].size, text[2]);
    memcpy(answer, text[3].bytes, text[3].size);
    claw_seal(to_initiator, 0, NULL, 0, answer, text[3].size);
    CHECK_SAME(answer, text[3].size + 16, sealed[3]);
}

/* The values are those of Python's hashlib. */
static void keccak_hashes_as_others_do(void)
{
    uint8_t xs[200];
    uint8_t out[3 * SHAKE128_RATE];
    blob wanted = from_hex("3a985da74fe225b2045c172d6bd390bd855f086e3e9d525b46bfe24511431532");
    mlk_sha3_256(out, (const uint8_t *)"abc", 3);
    CHECK_SAME(out, 32, wanted);
    wanted = from_hex("46f6dc66b77e87bb1217778c3b1eebfb7e9223a23524395cb9b445649291de2b"
                      "c2f8c01fc61385eb8703e11526b55ed918c2f6b2e43e7724d94070eaae3d2126");
    memset(xs, 'x', sizeof xs);
    mlk_sha3_512(out, xs, sizeof xs);
    CHECK_SAME(out, 64, wanted);
    wanted = from_hex("7614c58639bf53a94aab54261d1f9b2607e66b6f34101e1dee67aae77feb36d3");
    mlk_shake256(out, 32, xs, 136); /* a whole block */
    CHECK_SAME(out, 32, wanted);
    wanted = from_hex("35d6dbb75651b284076f5fde47b4a0586ee173e30bd4d08f2bc59c6114bdd745");
    claw_keccak state;
    mlk_shake128_init(&state);
    mlk_shake128_absorb_once(&state, (const uint8_t *)"abc", 3);
    mlk_shake128_squeezeblocks(out, 1, &state);
    mlk_shake128_squeezeblocks(out + SHAKE128_RATE, 2, &state);
    CHECK_SAME(out + 368, 32, wanted); /* bytes 368 to 399 */
}

void test_crypto(void)
{
    keccak_hashes_as_others_do();
    the_generator_and_the_session_key_are_those_of_the_draft();
    the_weak_points_and_only_they_give_zero();
    noise_answers_as_cacophony_does();
}
