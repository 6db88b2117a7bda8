#include "check.h"

int main(void)
{
    test_ble();
    test_codecs();
    test_crypto();
    test_pages();
    test_pairing();
    test_session();
    test_telemetry();
    test_fuzz();
    return check_report();
}
