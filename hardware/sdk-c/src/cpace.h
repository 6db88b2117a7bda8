/* CPACE-X25519-SHA512 (draft-irtf-cfrg-cpace-21): the generator and the session key. */
#ifndef CLAW_CPACE_H
#define CLAW_CPACE_H

#include "crypto.h"

/* H(lv("CPace255") || lv(PRS) || lv(zeros) || ...): the caller absorbs lv(CI) and lv(sid), then maps it. */
void claw_cpace_generator_begin(crypto_sha512_ctx *hash, const uint8_t *prs, size_t prs_size);
/* The generator: Elligator2 of the first 32 bytes of the finished hash. */
void claw_cpace_generator_end(crypto_sha512_ctx *hash, uint8_t generator[CLAW_KEY_SIZE]);
/* H(lv("CPace255_ISK") || lv(sid) || lv(K) || ...): the caller absorbs both shares with what they carry. */
void claw_cpace_isk_begin(crypto_sha512_ctx *hash, const uint8_t *sid, size_t sid_size,
                          const uint8_t k[CLAW_KEY_SIZE]);

#endif
