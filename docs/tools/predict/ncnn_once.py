"""Run one ncnn network on one thread; blockcount.so counts the last of three inferences.

``python ncnn_once.py NETWORK.param WIDTH HEIGHT CHANNELS``, with ncnn's wheel on the path. The
weights are empty, as in ncnn's own benchmark; the second inference warms the caches.
"""

import os
import sys

import ncnn

param, *size = sys.argv[1:]
net = ncnn.Net()
net.opt.num_threads = 1
net.opt.use_vulkan_compute = False
net.opt.lightmode = True
net.load_param(param)
net.load_model(ncnn.DataReaderFromEmpty())
x = ncnn.Mat(*map(int, size))
x.fill(0.01)
for tell in (None, os.PRIO_USER, os.PRIO_PROCESS):
    if tell is not None:
        os.getpriority(tell, 0)
    extractor = net.create_extractor()
    extractor.input(net.input_names()[0], x)
    for name in net.output_names():
        extractor.extract(name)
    if tell == os.PRIO_PROCESS:
        os.getpriority(tell, 0)
