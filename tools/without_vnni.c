/* Answers `int3; nop`, written over `cpuid` in a library, with what the processor says less VNNI, AMX and bfloat16. */
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <stdint.h>
#include <ucontext.h>

enum { FEATURES = 7 };
static const uint32_t AVX512_VNNI = 1u << 11; /* leaf 7.0, ecx */
static const uint32_t AMX = 1u << 22 | 1u << 24 | 1u << 25; /* leaf 7.0, edx */
static const uint32_t AVX_VNNI_BF16 = 1u << 4 | 1u << 5; /* leaf 7.1, eax */
static const uint32_t AVX_VNNI_INT = 1u << 4 | 1u << 5 | 1u << 10; /* leaf 7.1, edx */

static void answer(int signal, siginfo_t *info, void *context) {
  greg_t *at = ((ucontext_t *)context)->uc_mcontext.gregs;
  uint32_t leaf = at[REG_RAX], sub = at[REG_RCX], a, b, c, d;
  (void)signal, (void)info;
  __cpuid_count(leaf, sub, a, b, c, d);
  if (leaf == FEATURES && sub == 0) {
    c &= ~AVX512_VNNI;
    d &= ~AMX;
  }
  if (leaf == FEATURES && sub == 1) {
    a &= ~AVX_VNNI_BF16;
    d &= ~AVX_VNNI_INT;
  }
  at[REG_RAX] = a, at[REG_RBX] = b, at[REG_RCX] = c, at[REG_RDX] = d;
}

__attribute__((constructor)) static void listen(void) {
  struct sigaction action = {.sa_sigaction = answer, .sa_flags = SA_SIGINFO | SA_NODEFER};
  sigaction(SIGTRAP, &action, 0);
}
