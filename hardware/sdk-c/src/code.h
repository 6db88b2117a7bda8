/* Pairing codes as people type them. */
#ifndef CLAW_CODE_H
#define CLAW_CODE_H

#include <stdbool.h>
#include <stdint.h>

#define CLAW_PRS_SIZE 7

/* The 7 random symbols in upper case, or false: a wrong length, symbol or check symbol. */
bool claw_code_parse(const char *typed, uint8_t prs[CLAW_PRS_SIZE]);

#endif
