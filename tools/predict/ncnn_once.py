"""Run one ncnn network on one thread; the last of three inferences stands between two marks.

``python ncnn_once.py NETWORK.param WIDTH HEIGHT CHANNELS``, with ncnn's wheel on the path. The
weights are empty, as in ncnn's own benchmark. The marks are what blockcount.so counts between.
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
for last in (False, False, True):
    if last:
        os.getpriority(os.PRIO_PROCESS, 0)
    extractor = net.create_extractor()
    extractor.input(net.input_names()[0], x)
    for name in net.output_names():
        extractor.extract(name)
    if last:
        os.getpriority(os.PRIO_PROCESS, 0)
