#include "manylora/dispatch.h"

#include <stdexcept>

#ifdef MANYLORA_X86
#include <cpuid.h>
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace manylora {
namespace {

#ifdef MANYLORA_X86
// AMX with bf16 and int8, and the system's permission for this process, all its threads included, to use its registers.
bool has_amx() {
#ifdef __linux__
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return false;
  const bool bf16 = (edx >> 22) & 1, tiles = (edx >> 24) & 1, int8 = (edx >> 25) & 1;
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, of <asm/prctl.h> since Linux 5.16
  return bf16 && tiles && int8 && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}
#endif

}  // namespace

std::vector<Capability> available_capabilities() {
  std::vector<Capability> found{Capability::scalar};
#ifdef MANYLORA_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
    found.push_back(Capability::avx2);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni")) {
      found.push_back(Capability::avx512bf16);
      if (has_amx()) found.push_back(Capability::amx);
    }
  }
#endif
  return found;
}

Kernels kernels_for(Capability capability) {
  switch (capability) {
#ifdef MANYLORA_X86
    case Capability::avx512bf16: return {quantize_avx512bf16, linear_avx512bf16, lora_avx512bf16, attention_avx512bf16,
                                         rotary_avx512bf16, norm_avx512bf16, activation_avx512bf16, embedding_avx512bf16,
                                         sampling_avx512bf16, probe_avx512bf16};
    case Capability::amx: return {quantize_avx512bf16, linear_amx, lora_amx, attention_amx,
                                  rotary_avx512bf16, norm_avx512bf16, activation_avx512bf16, embedding_avx512bf16,
                                  sampling_avx512bf16, probe_amx};
    case Capability::avx2: return {quantize_avx2, linear_avx2, lora_avx2, attention_avx2,
                                   rotary_avx2, norm_avx2, activation_avx2, embedding_avx2,
                                   sampling_avx2, probe_avx2};
#endif
    default: return {quantize_scalar, linear_scalar, lora_scalar, attention_scalar,
                     rotary_scalar, norm_scalar, activation_scalar, embedding_scalar,
                     sampling_scalar, probe_scalar};
  }
}

const char* name_of(Capability capability) {
  switch (capability) {
    case Capability::scalar: return "scalar";
    case Capability::avx2: return "avx2";
    case Capability::avx512bf16: return "avx512bf16";
    case Capability::amx: return "amx";
  }
  return "unknown";
}

Capability parse_capability(const std::string& name) {
  std::string names;
  for (Capability capability : available_capabilities()) {
    if (name == name_of(capability)) return capability;
    names += std::string(names.empty() ? "" : ", ") + name_of(capability);
  }
  throw std::invalid_argument("capability '" + name + "' is not among those that this CPU and build have: " + names);
}

}  // namespace manylora
