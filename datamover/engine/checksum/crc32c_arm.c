/* CRC32C with the instructions of ARMv8 (CRC and PMULL extensions); for other CPU families, none. */
#include "engine.h"

#if defined(__aarch64__) && defined(__linux__) && !defined(__AARCH64EB__)
#include <arm_neon.h>
#include <string.h>
#include <sys/auxv.h>

#define CRC_HWCAP (1ul << 7)		/* HWCAP_CRC32, asm/hwcap.h */
#define PMULL_HWCAP (1ul << 4)		/* HWCAP_PMULL */
/* The intrinsics are declared only where the whole file is compiled for the extension; the builtins always are. */
#if defined(__clang__)
#define ARMV8 __attribute__((target("crc,aes")))
#define crc_of_8_bytes __builtin_arm_crc32cd
#define crc_of_byte __builtin_arm_crc32cb
#define multiply_polynomials(a, b) __builtin_neon_vmull_p64(a, b)
#else
#define ARMV8 __attribute__((target("+crc+crypto")))
#define crc_of_8_bytes __builtin_aarch64_crc32cx
#define crc_of_byte __builtin_aarch64_crc32cb
#define multiply_polynomials(a, b) vmull_p64(a, b)
#endif

#define STREAM 1024u			/* bytes of one of the three streams that hide crc32cx's latency */

static uint32_t shift_two, shift_one;	/* x^(8 n - 33) for n = 2 STREAM and STREAM, as in crc32c_x86.c */

static uint64_t load_64(const unsigned char *p)
{
	uint64_t value;

	memcpy(&value, p, sizeof value);
	return value;
}

ARMV8 static uint64_t shifted(uint32_t state, uint32_t constant)
{
	return vgetq_lane_u64(vreinterpretq_u64_p128(multiply_polynomials(state, constant)), 0);
}

ARMV8 static uint32_t update_three(uint32_t first, const unsigned char *p)
{
	uint32_t second = 0, third = 0;

	for (const unsigned char *end = p + STREAM; p < end; p += 8) {
		first = crc_of_8_bytes(first, load_64(p));
		second = crc_of_8_bytes(second, load_64(p + STREAM));
		third = crc_of_8_bytes(third, load_64(p + 2 * STREAM));
	}
	return crc_of_8_bytes(0, shifted(first, shift_two) ^ shifted(second, shift_one)) ^ third;
}

ARMV8 static uint32_t update_armv8(uint32_t state, const unsigned char *p, size_t length)
{
	for (; length >= 3 * STREAM; p += 3 * STREAM, length -= 3 * STREAM)
		state = update_three(state, p);
	for (; length >= 8; p += 8, length -= 8)
		state = crc_of_8_bytes(state, load_64(p));
	while (length--)
		state = crc_of_byte(state, *p++);
	return state;
}

static bool have_armv8(void)
{
	shift_two = crc32c_x_power(2 * STREAM * 8 - 33);
	shift_one = crc32c_x_power(STREAM * 8 - 33);
	return (getauxval(AT_HWCAP) & (CRC_HWCAP | PMULL_HWCAP)) == (CRC_HWCAP | PMULL_HWCAP);
}

const struct crc32c_variant crc32c_variants_cpu[] = {
	{ "armv8-crc-pmull", have_armv8, update_armv8 },
	{ NULL, NULL, NULL },
};
#elif !defined(__x86_64__)
const struct crc32c_variant crc32c_variants_cpu[] = { { NULL, NULL, NULL } };
#endif
