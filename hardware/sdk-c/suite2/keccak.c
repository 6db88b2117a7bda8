#include "keccak.h"

static uint64_t rotate(uint64_t value, unsigned by)
{
    return by == 0 ? value : value << by | value >> (64 - by);
}

void claw_keccak_permute(claw_keccak *state)
{
    static const uint64_t round_constants[24] = {
        UINT64_C(0x0000000000000001), UINT64_C(0x0000000000008082), UINT64_C(0x800000000000808a),
        UINT64_C(0x8000000080008000), UINT64_C(0x000000000000808b), UINT64_C(0x0000000080000001),
        UINT64_C(0x8000000080008081), UINT64_C(0x8000000000008009), UINT64_C(0x000000000000008a),
        UINT64_C(0x0000000000000088), UINT64_C(0x0000000080008009), UINT64_C(0x000000008000000a),
        UINT64_C(0x000000008000808b), UINT64_C(0x800000000000008b), UINT64_C(0x8000000000008089),
        UINT64_C(0x8000000000008003), UINT64_C(0x8000000000008002), UINT64_C(0x8000000000000080),
        UINT64_C(0x000000000000800a), UINT64_C(0x800000008000000a), UINT64_C(0x8000000080008081),
        UINT64_C(0x8000000000008080), UINT64_C(0x0000000080000001), UINT64_C(0x8000000080008008),
    };
    /* rho and pi in one walk over the lanes but the first */
    static const uint8_t rotations[24] = {1,  3,  6,  10, 15, 21, 28, 36, 45, 55, 2,  14,
                                          27, 41, 56, 8,  25, 43, 62, 18, 39, 61, 20, 44};
    static const uint8_t places[24] = {10, 7,  11, 17, 18, 3, 5,  16, 8,  21, 24, 4,
                                       15, 23, 19, 13, 12, 2, 20, 14, 22, 9,  6,  1};
    uint64_t *a = state->lane, column[5];
    for (size_t round = 0; round < 24; round++) {
        for (size_t x = 0; x < 5; x++) {
            column[x] = a[x] ^ a[x + 5] ^ a[x + 10] ^ a[x + 15] ^ a[x + 20];
        }
        for (size_t x = 0; x < 5; x++) {
            uint64_t mixed = column[(x + 4) % 5] ^ rotate(column[(x + 1) % 5], 1);
            for (size_t y = 0; y < 25; y += 5) {
                a[x + y] ^= mixed;
            }
        }
        uint64_t carried = a[1];
        for (size_t i = 0; i < 24; i++) {
            uint64_t next = a[places[i]];
            a[places[i]] = rotate(carried, rotations[i]);
            carried = next;
        }
        for (size_t y = 0; y < 25; y += 5) {
            memcpy(column, a + y, sizeof column);
            for (size_t x = 0; x < 5; x++) {
                a[x + y] = column[x] ^ (~column[(x + 1) % 5] & column[(x + 2) % 5]);
            }
        }
        a[0] ^= round_constants[round];
    }
}

static void mix(claw_keccak *state, size_t at, uint8_t byte)
{
    state->lane[at / 8] ^= (uint64_t)byte << (8 * (at % 8));
}

void claw_keccak_absorb(claw_keccak *state, size_t rate, uint8_t suffix, const uint8_t *in, size_t size)
{
    size_t at = 0;
    memset(state, 0, sizeof *state);
    for (size_t i = 0; i < size; i++) {
        mix(state, at++, in[i]);
        if (at == rate) {
            claw_keccak_permute(state);
            at = 0;
        }
    }
    mix(state, at, suffix);
    mix(state, rate - 1, 0x80);
}

void claw_keccak_squeeze(claw_keccak *state, size_t rate, uint8_t *out, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        size_t at = i % rate;
        if (at == 0) {
            claw_keccak_permute(state);
        }
        out[i] = (uint8_t)(state->lane[at / 8] >> (8 * (at % 8)));
    }
}
