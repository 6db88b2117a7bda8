#include "check.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int checks, failures;

void check(bool holds, const char *what, const char *file, int line)
{
    checks++;
    if (!holds) {
        failures++;
        if (failures <= 20) { /* the rest is mostly the same one again */
            printf("%s:%d: does not hold: %s\n", file, line, what);
        }
    }
}

static void print_hex(const char *name, const uint8_t *bytes, size_t size)
{
    printf("  %s %zu:", name, size);
    for (size_t i = 0; i < size; i++) {
        printf("%s%02x", i % 32 ? " " : "\n    ", bytes[i]);
    }
    printf("\n");
}

void check_same(const void *got, size_t size, const blob *wanted, const char *what, const char *file, int line)
{
    bool same = size == wanted->size && memcmp(got, wanted->bytes, size) == 0;
    check(same, what, file, line);
    if (!same && failures <= 20) {
        print_hex("got", got, size);
        print_hex("wanted", wanted->bytes, wanted->size);
    }
}

int check_report(void)
{
    printf("%d checks, %d failed\n", checks, failures);
    return failures == 0 ? 0 : 1;
}

blob from_hex(const char *hex)
{
    blob out = {.size = 0};
    while (*hex != '\0') {
        unsigned byte;
        if (isspace((unsigned char)*hex)) {
            hex++;
            continue;
        }
        if (!isxdigit((unsigned char)hex[0]) || !isxdigit((unsigned char)hex[1]) || sscanf(hex, "%2x", &byte) != 1) {
            break;
        }
        out.bytes[out.size++] = (uint8_t)byte;
        hex += 2;
    }
    return out;
}

/* A whole file of the repository, whose root the environment names. */
static char *read_all(const char *name)
{
    static char text[1 << 18];
    char path[1024];
    const char *root = getenv("CLAWGATE_ROOT");
    snprintf(path, sizeof path, "%s/%s", root ? root : ".", name);
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        printf("cannot open %s: set CLAWGATE_ROOT to the root of the repository\n", path);
        exit(2);
    }
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    return text;
}

static const char *behind(const char *text, const char *mark, const char *name)
{
    const char *at = strstr(text, mark);
    if (at == NULL) {
        printf("nothing like \"%s\" for \"%s\"\n", mark, name);
        exit(2);
    }
    return at + strlen(mark);
}

blob from_page(const char *section, const char *name)
{
    char mark[128];
    const char *at = behind(read_all("docs/protocol.md"), "\n## Worked example", name);
    snprintf(mark, sizeof mark, "\n### %s\n", section);
    at = behind(at, mark, name);
    snprintf(mark, sizeof mark, "\n# %s\n", name);
    return from_hex(behind(at, mark, name));
}

blob from_line(const char *heading, const char *name)
{
    char mark[128], line[512];
    blob out = {.size = 0};
    snprintf(mark, sizeof mark, "\n## %s\n", heading);
    const char *at = behind(read_all("docs/protocol.md"), mark, name);
    snprintf(mark, sizeof mark, "\n%s ", name);
    while (out.size == 0) {
        at = behind(at, mark, name); /* prose may begin with the same word: that is not hex */
        snprintf(line, sizeof line, "%.*s", (int)strcspn(at, "\n"), at);
        out = from_hex(line);
    }
    return out;
}

blob from_json(const char *file, const char *name, int n)
{
    char mark[128];
    snprintf(mark, sizeof mark, "\"%s\": \"", name);
    const char *at = read_all(file);
    for (int i = 0; i <= n; i++) {
        at = behind(at, mark, name);
    }
    return from_hex(at);
}
