/* How mlkem-native is built here: ML-KEM-768, encapsulation only, portable C, on the Keccak beside it. */
#ifndef MLK_CONFIG_H
#define MLK_CONFIG_H

#define MLK_CONFIG_PARAMETER_SET 768
#define MLK_CONFIG_NAMESPACE_PREFIX claw_mlkem
#define MLK_CONFIG_INTERNAL_API_QUALIFIER static
#define MLK_CONFIG_EXTERNAL_API_QUALIFIER static
#define MLK_CONFIG_NO_KEYPAIR_API
#define MLK_CONFIG_NO_DECAPS_API
#define MLK_CONFIG_NO_RANDOMIZED_API
#define MLK_CONFIG_NO_ASM
#define MLK_CONFIG_SERIAL_FIPS202_ONLY
#define MLK_CONFIG_FIPS202_CUSTOM_HEADER "keccak.h"

#define MLK_CONFIG_CUSTOM_ZEROIZE
#if !defined(__ASSEMBLER__)
#include <stddef.h>

#include "monocypher.h"
static inline void mlk_zeroize(void *bytes, size_t size)
{
    crypto_wipe(bytes, size);
}
#endif

#endif
