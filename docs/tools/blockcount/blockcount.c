/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A QEMU plugin: how often did each basic block run, and which accesses missed the caches?
 *
 * The guest tells it what to do by a call that nothing else makes, getpriority(which, 0):
 * PRIO_USER: look on from here (before, the guest runs at full speed), with cold caches;
 * PRIO_PROCESS: begin to count, and the next time: write; PRIO_PGRP: look away again. It writes
 * one line a block (its executions, then its instructions in hexadecimal) and one line with the
 * accesses and, of every cache, the misses and those of them that were writes. Loaded into QEMU (GPL-2.0-or-later) and
 * therefore licensed like it; hwbench, which only starts QEMU, is another program.
 *
 *   qemu-aarch64 -cpu cortex-a72 -plugin blockcount.so,out=FILE,caches=32768:2+1048576:16 PROGRAM
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plugin_api.h"

#define VISIBLE __attribute__((visibility("default")))
#define MARK 141 /* getpriority on aarch64 */
enum { COUNT, LOOK_AWAY, LOOK_ON };
#define BUCKETS (1u << 18)
#define LEVELS 3
#define LINE_BITS 6

struct block {
  struct block *next;
  uint64_t address, runs, before;
  size_t length;
  uint32_t code[];
};

struct cache {
  uint64_t sets, ways, misses, writes;
  uint64_t *tags;  /* sets x ways, the most recently used first */
};

VISIBLE int qemu_plugin_version = 1;
static struct block *blocks[BUCKETS];
static struct cache caches[LEVELS];
static int levels, counting;
static uint64_t accesses;
static FILE *out;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Look a line up in one cache and make it the most recent one; returns whether it was there. */
static bool touch(struct cache *c, uint64_t line) {
  uint64_t *set = c->tags + (line % c->sets) * c->ways, tag = line + 1, way = 0;
  if (set[0] == tag) return true;
  while (way < c->ways && set[way] != tag) way++;
  bool found = way < c->ways;
  if (!found) way = c->ways - 1;
  memmove(set + 1, set, way * sizeof *set);
  set[0] = tag;
  return found;
}

static void accessed(unsigned cpu, qemu_plugin_meminfo_t info, uint64_t address, void *data) {
  accesses += counting;
  for (int level = 0; level < levels; level++) {
    if (touch(&caches[level], address >> LINE_BITS)) return;
    caches[level].misses += counting;
    caches[level].writes += counting && qemu_plugin_mem_is_store(info);
  }
}

static struct block *found(struct qemu_plugin_tb *tb) {
  uint64_t address = qemu_plugin_tb_vaddr(tb);
  size_t length = qemu_plugin_tb_n_insns(tb);
  struct block **bucket = &blocks[(address * 0x9E3779B97F4A7C15ull) >> 46], *b;
  b = malloc(sizeof *b + 4 * length);
  if (!b) abort();
  for (size_t i = 0; i < length; i++)
    memcpy(&b->code[i], qemu_plugin_insn_data(qemu_plugin_tb_get_insn(tb, i)), 4);
  for (struct block *o = *bucket; o; o = o->next)
    if (o->address == address && o->length == length && !memcmp(o->code, b->code, 4 * length)) {
      free(b);
      return o;
    }
  b->address = address;
  b->length = length;
  b->runs = b->before = 0;
  b->next = *bucket;
  return *bucket = b;
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb) {
  pthread_mutex_lock(&lock);
  struct block *b = found(tb);
  pthread_mutex_unlock(&lock);
  if (levels)
    for (size_t i = 0; i < b->length; i++)
      qemu_plugin_register_vcpu_mem_cb(qemu_plugin_tb_get_insn(tb, i), accessed,
                                       PLUGIN_NO_REGISTERS, PLUGIN_READ_OR_WRITE, NULL);
  qemu_plugin_register_vcpu_tb_exec_inline(tb, PLUGIN_ADD_U64, &b->runs, 1);
}

static void written(void) {
  for (size_t i = 0; i < BUCKETS; i++)
    for (struct block *b = blocks[i]; b; b = b->next) {
      if (b->runs == b->before) continue;
      fprintf(out, "%" PRIu64, b->runs - b->before);
      for (size_t k = 0; k < b->length; k++) fprintf(out, " %08" PRIx32, b->code[k]);
      fputc('\n', out);
    }
  fprintf(out, "# accesses %" PRIu64, accesses);
  for (int i = 0; i < levels; i++)
    fprintf(out, " %" PRIu64 " %" PRIu64, caches[i].misses, caches[i].writes);
  fputs(" complete\n", out);
  fflush(out);
}

static void looking(qemu_plugin_id_t id);
static void waiting(qemu_plugin_id_t id);

static void called(qemu_plugin_id_t id, unsigned cpu, int64_t number, uint64_t a1, uint64_t a2,
                   uint64_t a3, uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8) {
  if (number != MARK) return;
  if (a1 != COUNT) {
    qemu_plugin_reset(id, a1 == LOOK_ON ? looking : waiting);
    return;
  }
  pthread_mutex_lock(&lock);
  counting = !counting;
  if (!counting) written();
  for (size_t i = 0; i < BUCKETS; i++)
    for (struct block *b = blocks[i]; b; b = b->next) b->before = b->runs;
  accesses = 0;
  for (int i = 0; i < levels; i++) caches[i].misses = caches[i].writes = 0;
  pthread_mutex_unlock(&lock);
}

static void waiting(qemu_plugin_id_t id) { qemu_plugin_register_vcpu_syscall_cb(id, called); }

/* Whatever was translated before is forgotten, and translated anew with its counters. */
static void looking(qemu_plugin_id_t id) {
  for (int i = 0; i < levels; i++)
    memset(caches[i].tags, 0, caches[i].sets * caches[i].ways * sizeof *caches[i].tags);
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  waiting(id);
}

static int add_cache(const char *text) {
  uint64_t bytes, ways;
  if (levels == LEVELS || sscanf(text, "%" SCNu64 ":%" SCNu64, &bytes, &ways) != 2) return -1;
  struct cache *c = &caches[levels++];
  c->ways = ways;
  c->sets = bytes / ways >> LINE_BITS;
  c->tags = c->sets ? calloc(c->sets * ways, sizeof *c->tags) : NULL;
  return c->tags ? 0 : -1;
}

VISIBLE int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc, char **argv) {
  for (int i = 0; i < argc; i++) {
    if (!strncmp(argv[i], "out=", 4)) {
      out = fopen(argv[i] + 4, "w");
    } else if (!strncmp(argv[i], "caches=", 7)) {
      for (char *part = strtok(strdup(argv[i] + 7), "+"); part; part = strtok(NULL, "+"))
        if (add_cache(part)) return -1;
    } else {
      return -1;
    }
  }
  if (!out) return -1;
  waiting(id);
  return 0;
}
