/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The few declarations of QEMU's plugin interface (version 1, QEMU 4.2 to 8.2) that
 * blockcount.c calls, written down from its documentation: Debian ships no header for it.
 */
#ifndef PLUGIN_API_H
#define PLUGIN_API_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint64_t qemu_plugin_id_t;
typedef uint32_t qemu_plugin_meminfo_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;

enum { PLUGIN_NO_REGISTERS = 0 };
enum { PLUGIN_READ_OR_WRITE = 3 };
enum { PLUGIN_ADD_U64 = 0 };

typedef void (*translated_t)(qemu_plugin_id_t, struct qemu_plugin_tb *);
typedef void (*accessed_t)(unsigned, qemu_plugin_meminfo_t, uint64_t, void *);
typedef void (*called_t)(qemu_plugin_id_t, unsigned, int64_t, uint64_t, uint64_t, uint64_t,
                         uint64_t, uint64_t, uint64_t, uint64_t, uint64_t);

typedef void (*done_t)(qemu_plugin_id_t);

void qemu_plugin_reset(qemu_plugin_id_t, done_t);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, translated_t);
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int, void *, uint64_t);
void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *, accessed_t, int, int, void *);
void qemu_plugin_register_vcpu_syscall_cb(qemu_plugin_id_t, called_t);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
bool qemu_plugin_mem_is_store(qemu_plugin_meminfo_t);

#endif
