#include "check.h"

int main(void)
{
    test_codecs();
    test_crypto();
    test_pairing();
    test_session();
    test_telemetry();
    return check_report();
}
