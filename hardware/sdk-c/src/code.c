#include "code.h"

#include <stddef.h>
#include <string.h>

static const char ALPHABET[] = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
#define SYMBOLS 8

static char normal(char typed)
{
    char upper = typed >= 'a' && typed <= 'z' ? (char)(typed - 'a' + 'A') : typed;
    return upper == 'O' ? '0' : upper == 'I' || upper == 'L' ? '1' : upper;
}

/* The sum of 2^i * s_i, i = 1 to 7, in GF(32) with x^5 + x^2 + 1. */
static unsigned check(const unsigned *values)
{
    unsigned sum = 0;
    for (size_t i = SYMBOLS - 1; i-- > 0;) {
        sum = (sum ^ values[i]) << 1;
        sum ^= sum > 31 ? 0x25 : 0;
    }
    return sum;
}

bool claw_code_parse(const char *typed, uint8_t prs[CLAW_PRS_SIZE])
{
    unsigned values[SYMBOLS];
    size_t count = 0;
    for (; *typed != '\0'; typed++) {
        if (*typed == ' ' || *typed == '-') {
            continue;
        }
        const char *symbol = strchr(ALPHABET, normal(*typed));
        if (symbol == NULL || count == SYMBOLS) {
            return false;
        }
        values[count++] = (unsigned)(symbol - ALPHABET);
    }
    if (count != SYMBOLS || check(values) != values[SYMBOLS - 1]) {
        return false;
    }
    for (size_t i = 0; i < CLAW_PRS_SIZE; i++) {
        prs[i] = (uint8_t)ALPHABET[values[i]];
    }
    return true;
}
