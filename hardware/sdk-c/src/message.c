#include "message.h"

#include "clawgate_limits.h"

static const uint8_t *get_exactly(claw_reader *reader, size_t size)
{
    claw_slice bytes = claw_get_bytes(reader);
    reader->bad |= bytes.size != size;
    return bytes.bytes;
}

bool claw_is_id(const uint8_t *id, size_t size)
{
    if (size == 0 || size > CLAW_ID_MAX) {
        return false;
    }
    for (size_t i = 0; i < size; i++) {
        bool letter = (id[i] >= 'a' && id[i] <= 'z') || (id[i] >= '0' && id[i] <= '9');
        if (!letter && id[i] != '_' && id[i] != '-') {
            return false;
        }
    }
    return true;
}

static bool is_ascending(claw_slice suites)
{
    for (size_t i = 1; i < suites.size; i++) {
        if (suites.bytes[i] <= suites.bytes[i - 1]) {
            return false;
        }
    }
    return suites.size > 0;
}

bool claw_read_m1(claw_m1 *m1, const uint8_t *message, size_t size)
{
    claw_reader reader = claw_read_from(message + 1, size - 1);
    claw_map map = claw_get_map(&reader);
    *m1 = (claw_m1){0};
    for (int64_t key; claw_next_key(&map, &key);) {
        switch (key) {
        case 1: m1->version = claw_get_uint(&reader); break;
        case 2: m1->suites = claw_get_bytes(&reader); break;
        case 3: m1->gateway_id = claw_get_text(&reader); break;
        case 4: m1->ceremony = claw_get_uint(&reader); break;
        case 5: m1->nonce = get_exactly(&reader, CLAW_NONCE_SIZE); break;
        default: claw_skip(&reader);
        }
    }
    return claw_read_all(&reader) && m1->version != 0 && is_ascending(m1->suites) &&
           claw_is_id(m1->gateway_id.bytes, m1->gateway_id.size) && m1->ceremony != 0 && m1->nonce != NULL;
}

bool claw_read_m3(claw_m3 *m3, const uint8_t *message, size_t size)
{
    claw_reader reader = claw_read_from(message + 1, size - 1);
    claw_map map = claw_get_map(&reader);
    *m3 = (claw_m3){0};
    for (int64_t key; claw_next_key(&map, &key);) {
        switch (key) {
        case 1: m3->share = get_exactly(&reader, CLAW_SHARE_SIZE); break;
        case 2: m3->kem_key = claw_get_bytes(&reader); break;
        case 3: m3->gateway_tag = get_exactly(&reader, 32); break;
        default: claw_skip(&reader);
        }
    }
    return claw_read_all(&reader) && m3->share != NULL;
}

bool claw_read_m5(claw_m5 *m5, const uint8_t *message, size_t size)
{
    claw_reader reader = claw_read_from(message + 1, size - 1);
    claw_map map = claw_get_map(&reader);
    *m5 = (claw_m5){0};
    for (int64_t key; claw_next_key(&map, &key);) {
        switch (key) {
        case 1: m5->gateway_tag = get_exactly(&reader, 32); break;
        case 2: m5->part = claw_get_bytes(&reader); break;
        case 3: m5->mac = get_exactly(&reader, 16); break;
        default: claw_skip(&reader);
        }
    }
    return claw_read_all(&reader) && m5->part.size > 16 && m5->part.size <= CLAW_PART_MAX + 16 && m5->mac != NULL;
}

bool claw_read_m5_part(claw_m5_part *part, const uint8_t *text, size_t size)
{
    claw_reader reader = claw_read_from(text, size);
    claw_map map = claw_get_map(&reader);
    bool has_settings = false;
    *part = (claw_m5_part){0};
    for (int64_t key; claw_next_key(&map, &key);) {
        switch (key) {
        case 1: part->gateway_static = get_exactly(&reader, 32); break;
        case 2: part->settings = claw_get_bytes(&reader); has_settings = true; break;
        default: claw_skip(&reader);
        }
    }
    return claw_read_all(&reader) && part->gateway_static != NULL && has_settings &&
           part->settings.size <= CLAW_SETTINGS_MAX;
}
