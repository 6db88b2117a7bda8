/* Suite 2's key encapsulation, ML-KEM-768 (FIPS 203). In a build with CLAW_SUITE2 it comes from the folder suite2. */
#ifndef CLAW_KEM_H
#define CLAW_KEM_H

#include <stdbool.h>
#include <stdint.h>

#define CLAW_KEM_KEY 1184
#define CLAW_KEM_CIPHERTEXT 1088
#define CLAW_KEM_SECRET 32

/* False: the key is not one. */
bool claw_kem_encapsulate(uint8_t ciphertext[CLAW_KEM_CIPHERTEXT], uint8_t secret[CLAW_KEM_SECRET],
                          const uint8_t key[CLAW_KEM_KEY], const uint8_t random[CLAW_KEM_SECRET]);

#endif
