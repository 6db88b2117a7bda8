/* mlkem-native as one unit: its functions stay in here. */
#include "kem.h"

#if defined(__GNUC__)
#pragma GCC diagnostic ignored "-Wunused-function"
#endif
#include "mlkem_native_bcm.c"

bool claw_kem_encapsulate(uint8_t ciphertext[CLAW_KEM_CIPHERTEXT], uint8_t secret[CLAW_KEM_SECRET],
                          const uint8_t key[CLAW_KEM_KEY], const uint8_t random[CLAW_KEM_SECRET])
{
    return claw_mlkem_enc_derand(ciphertext, secret, key, random) == 0;
}
